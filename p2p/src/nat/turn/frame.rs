//! Data on channels, and how messages follow each other on a stream (RFC 8656, 12.4 and 12.5).
//!
//! The first two bits tell a STUN message (00) from a channel's data (01). Over UDP both are what a
//! datagram holds; over TCP both say how long they are, and a channel's data is padded to a multiple
//! of four bytes.

use super::message::{MAX_BYTES, MAX_PAYLOAD};

/// The numbers that channels may have (RFC 8656, 12).
pub(super) const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;

/// Bytes before a channel's data: its number and the length.
const CHANNEL_HEADER: usize = 4;

/// Bytes before the attributes of a STUN message.
const STUN_HEADER: usize = 20;

/// What a datagram, or a part of a stream, holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A STUN message.
    Stun(&'a [u8]),
    /// Data of the address that has this channel.
    Channel(u16, &'a [u8]),
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoFrame {
    /// They begin like neither, or end too early.
    Malformed,
    /// More than is read.
    Oversized,
}

/// How long a frame is, by its first four bytes, and how long with what is padded; none if they begin
/// no frame.
fn length(head: [u8; 4]) -> Option<(usize, usize)> {
    let [first, second, high, low] = head;
    let told = usize::from(u16::from_be_bytes([high, low]));
    if first & 0xc0 == 0 {
        // All attributes are multiples of four bytes.
        let whole = STUN_HEADER + told;
        return told.is_multiple_of(4).then_some((whole, whole));
    }
    let whole = CHANNEL_HEADER + told;
    let is_channel = CHANNELS.contains(&u16::from_be_bytes([first, second]));
    is_channel.then_some((whole, whole.next_multiple_of(4)))
}

/// Reads what begins `bytes`; whatever is behind it is padding.
pub(super) fn read(bytes: &[u8]) -> Result<Frame<'_>, NoFrame> {
    if bytes.len() > MAX_BYTES {
        return Err(NoFrame::Oversized);
    }
    let (head, body) = bytes.split_first_chunk::<4>().ok_or(NoFrame::Malformed)?;
    let (whole, _) = length(*head).ok_or(NoFrame::Malformed)?;
    let [first, second, ..] = *head;
    if first & 0xc0 == 0 {
        // A datagram with more than the message says is none (RFC 8489, 6.3).
        return if whole == bytes.len() { Ok(Frame::Stun(bytes)) } else { Err(NoFrame::Malformed) };
    }
    let data = body.get(..whole - CHANNEL_HEADER).ok_or(NoFrame::Malformed)?;
    Ok(Frame::Channel(u16::from_be_bytes([first, second]), data))
}

/// Data on a channel, padded as a stream wants it if `padded`. None if the datagram is too long.
pub(super) fn channel(number: u16, payload: &[u8], padded: bool) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD)?;
    let whole = CHANNEL_HEADER + payload.len();
    let mut bytes = Vec::with_capacity(whole.next_multiple_of(4));
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    if padded {
        bytes.resize(whole.next_multiple_of(4), 0);
    }
    Some(bytes)
}

/// Cuts a stream into frames. Holds what has come and is no whole frame yet: at most [`MAX_BYTES`] and
/// what one read brings.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    bytes: Vec<u8>,
    /// Up to where `bytes` was handed out already.
    taken: usize,
}

impl Cutter {
    /// More has come.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame with its padding, for [`read`]; none if it is not all there. After an error
    /// nothing of the stream makes sense any more.
    pub(super) fn take(&mut self) -> Result<Option<&[u8]>, NoFrame> {
        let left = self.bytes.get(self.taken..).unwrap_or_default();
        let Some(head) = left.first_chunk::<4>() else { return Ok(None) };
        let (_, padded) = length(*head).ok_or(NoFrame::Malformed)?;
        if padded > MAX_BYTES {
            return Err(NoFrame::Oversized);
        }
        let Some(frame) = left.get(..padded) else { return Ok(None) };
        self.taken += padded;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_channels_data_is_as_the_rfc_lays_it_out() {
        let bytes = channel(0x4001, b"hello", false).unwrap();
        assert_eq!(bytes, b"\x40\x01\x00\x05hello");
        let padded = channel(0x4001, b"hello", true).unwrap();
        assert_eq!(padded, b"\x40\x01\x00\x05hello\0\0\0");
        for bytes in [bytes, padded] {
            assert_eq!(read(&bytes), Ok(Frame::Channel(0x4001, b"hello")));
        }
        assert_eq!(channel(0x4001, &[0; MAX_PAYLOAD + 1], false), None);
    }

    #[test]
    fn what_is_no_frame_is_told_apart() {
        assert_eq!(read(b""), Err(NoFrame::Malformed));
        assert_eq!(read(b"\x40\x01\x00\x05hell"), Err(NoFrame::Malformed), "cut short");
        for first in [0x50, 0x7f, 0x80, 0xff] {
            assert_eq!(read(&[first, 0, 0, 0]), Err(NoFrame::Malformed), "{first:#x} is reserved");
        }
        assert_eq!(read(&[0; MAX_BYTES + 1]), Err(NoFrame::Oversized));
        let mut message = [0; 24];
        assert_eq!(read(&message), Err(NoFrame::Malformed), "four bytes too many");
        message[3] = 4;
        assert_eq!(read(&message), Ok(Frame::Stun(&message[..])));
    }

    #[test]
    fn a_stream_that_promises_too_much_is_given_up_at_its_first_bytes() {
        let mut cutter = Cutter::default();
        cutter.put(&[0x40, 0, 0xff, 0xff]);
        assert_eq!(cutter.take(), Err(NoFrame::Oversized));
        let mut cutter = Cutter::default();
        cutter.put(&[0, 1, 0, 3]);
        assert_eq!(cutter.take(), Err(NoFrame::Malformed), "no multiple of four");
    }

    proptest! {
        /// However the stream is cut on its way.
        #[test]
        fn frames_come_out_of_a_stream_as_they_went_in(
            sizes in proptest::collection::vec(0..200usize, 1..20),
            cuts in proptest::collection::vec(1..100usize, 1..50),
        ) {
            let number = |n: usize| 0x4000 + u16::try_from(n).unwrap();
            let mut stream = Vec::new();
            for (n, size) in sizes.iter().enumerate() {
                stream.extend(channel(number(n), &vec![7; *size], true).unwrap());
            }
            let (mut cutter, mut got) = (Cutter::default(), Vec::new());
            let mut cuts = cuts.iter().cycle();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                cutter.put(now);
                rest = later;
                while let Some(bytes) = cutter.take().unwrap() {
                    let Ok(Frame::Channel(number, data)) = read(bytes) else { panic!("{bytes:?}") };
                    got.push((number, data.len()));
                }
            }
            let sent: Vec<_> = sizes.iter().enumerate().map(|(n, size)| (number(n), *size)).collect();
            prop_assert_eq!(got, sent);
            prop_assert!(cutter.bytes.len() - cutter.taken == 0);
        }

        #[test]
        fn no_bytes_are_a_panic_or_held_beyond_the_bound(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let mut cutter = Cutter::default();
            'stream: for part in &parts {
                let _ = read(part);
                cutter.put(part);
                loop {
                    match cutter.take() {
                        Ok(Some(bytes)) => drop(read(bytes)),
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
                prop_assert!(cutter.bytes.len() <= MAX_BYTES + 300);
            }
        }
    }
}
