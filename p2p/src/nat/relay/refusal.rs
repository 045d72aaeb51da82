//! Why a relay was no use.

use libp2p::relay::{
    client::transport,
    outbound::hop::{ConnectError, ReserveError},
};
use thiserror::Error;

/// Why a circuit or a reservation failed. Its text survives the layers above the transport, which
/// keep nothing else of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("the relay has no more places")]
    Full,
    #[error("the relay does not know the peer")]
    WithoutPeer,
    #[error("the relay does not want to")]
    Refused,
    #[error("the relay failed")]
    Failed,
    #[error("the relay timed out")]
    Timeout,
    #[error("no address through a relay")]
    Address,
}

impl Refusal {
    const ALL: [Self; 6] =
        [Self::Full, Self::WithoutPeer, Self::Refused, Self::Failed, Self::Timeout, Self::Address];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Full => "relay_full",
            Self::WithoutPeer => "relay_without_peer",
            Self::Refused => "relay_refused",
            Self::Failed => "relay_failed",
            Self::Timeout => "timeout",
            Self::Address => "not_allowed",
        }
    }

    /// The one that an error's text tells of.
    pub(crate) fn find(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| text.contains(&refusal.to_string()))
    }
}

impl From<transport::Error> for Refusal {
    fn from(error: transport::Error) -> Self {
        use transport::Error;
        match error {
            Error::Connect(error) => match error {
                ConnectError::ResourceLimitExceeded => Self::Full,
                ConnectError::NoReservation => Self::WithoutPeer,
                ConnectError::PermissionDenied | ConnectError::Unsupported => Self::Refused,
                ConnectError::Io(error) => Self::of(&error),
                ConnectError::ConnectionFailed | ConnectError::Protocol(_) => Self::Failed,
            },
            Error::Reservation(error) => match error {
                ReserveError::ResourceLimitExceeded => Self::Full,
                ReserveError::Refused | ReserveError::Unsupported => Self::Refused,
                ReserveError::Io(error) => Self::of(&error),
                ReserveError::Protocol(_) => Self::Failed,
            },
            Error::SendingMessageToBehaviour(_) | Error::ResponseFromBehaviourCanceled(_) => {
                Self::Failed
            }
            Error::MissingRelayPeerId
            | Error::MissingRelayAddr
            | Error::MissingDstPeerId
            | Error::InvalidHash
            | Error::MultipleCircuitRelayProtocolsUnsupported
            | Error::MalformedMultiaddr => Self::Address,
        }
    }
}

impl Refusal {
    fn of(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::TimedOut { Self::Timeout } else { Self::Failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_again_in_the_text_of_what_wraps_it() {
        for refusal in Refusal::ALL {
            let wrapped = std::io::Error::other(format!("Transport error: {refusal}"));
            assert_eq!(Refusal::find(&wrapped.to_string()), Some(refusal));
        }
        assert_eq!(Refusal::find("connection refused"), None);
    }
}
