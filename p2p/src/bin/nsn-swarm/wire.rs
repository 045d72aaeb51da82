//! gossipsub's wire, as much of it as a light peer speaks: protobuf `RPC` messages behind a varint
//! of their length. Written by hand, so that it can also say what the library never would.
//!
//! Field numbers are those of `rpc.proto` in the gossipsub specification (libp2p/specs, pubsub).

use libp2p::PeerId;

/// Largest frame that is read, in bytes: the largest control message and room around it.
pub(crate) const MAX_FRAME: usize = 2 << 20;

/// Protobuf's wire types that messages here use.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// One message of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Who says that it made it.
    pub(crate) author: PeerId,
    /// What it carries: an envelope that the author sealed, if it is honest.
    pub(crate) data: Vec<u8>,
    /// The author's number of it.
    pub(crate) sequence: u64,
    /// The topic's name on the wire.
    pub(crate) topic: String,
}

impl Message {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, &self.author.to_bytes());
        put_bytes(out, 2, &self.data);
        put_bytes(out, 3, &self.sequence.to_be_bytes());
        put_bytes(out, 4, self.topic.as_bytes());
    }
}

/// What goes into one `RPC`.
#[derive(Clone, Debug)]
pub(crate) enum Part<'a> {
    /// Subscribes to a topic.
    Subscribe(&'a str),
    /// A message.
    Publish(&'a Message),
    /// "I have these": ids of messages of a topic.
    IHave(&'a str, &'a [[u8; 20]]),
    /// Joins the mesh of a topic.
    Graft(&'a str),
    /// Leaves it.
    Prune(&'a str),
}

/// A frame: the length, and an `RPC` of these parts.
pub(crate) fn frame(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut control = Vec::new();
    for part in parts {
        match part {
            Part::Subscribe(topic) => {
                let mut subscription = Vec::new();
                put_number(&mut subscription, 1, 1);
                put_bytes(&mut subscription, 2, topic.as_bytes());
                put_bytes(&mut body, 1, &subscription);
            }
            Part::Publish(message) => {
                let mut bytes = Vec::with_capacity(message.data.len() + 256);
                message.encode(&mut bytes);
                put_bytes(&mut body, 2, &bytes);
            }
            Part::IHave(topic, ids) => {
                let mut have = Vec::with_capacity(topic.len() + 8 + ids.len() * 22);
                put_bytes(&mut have, 1, topic.as_bytes());
                for id in *ids {
                    put_bytes(&mut have, 2, id);
                }
                put_bytes(&mut control, 1, &have);
            }
            Part::Graft(topic) => put_topic(&mut control, 3, topic),
            Part::Prune(topic) => put_topic(&mut control, 4, topic),
        }
    }
    if !control.is_empty() {
        put_bytes(&mut body, 3, &control);
    }
    let mut frame = Vec::with_capacity(body.len() + 5);
    put_varint(&mut frame, len(&body));
    frame.extend_from_slice(&body);
    frame
}

/// A frame's length as it stands before it, for frames that are never sent whole.
pub(crate) fn length_prefix(bytes: u64) -> Vec<u8> {
    let mut prefix = Vec::new();
    put_varint(&mut prefix, bytes);
    prefix
}

fn put_topic(out: &mut Vec<u8>, field: u64, topic: &str) {
    let mut inner = Vec::new();
    put_bytes(&mut inner, 1, topic.as_bytes());
    put_bytes(out, field, &inner);
}

fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, (field << 3) | VARINT);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, (field << 3) | BYTES);
    put_varint(out, len(bytes));
    out.extend_from_slice(bytes);
}

/// A number as protobuf and multistream write it: seven bits a byte, the low ones first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(0x80 | low_bits(value));
        value >>= 7;
    }
    out.push(low_bits(value));
}

fn low_bits(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or_default()
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The bytes are no `RPC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What a light peer wants to know of an `RPC` that it received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    /// What the messages carry.
    pub(crate) data: Vec<&'a [u8]>,
    /// How often it was taken into a mesh, and put out of one.
    pub(crate) grafts: u64,
    pub(crate) prunes: u64,
    /// Ids of messages that it was asked for.
    pub(crate) wanted: u64,
}

impl<'a> Received<'a> {
    /// Reads an `RPC`. What it keeps refers to the input, so memory is bounded by its length.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut this = Self::default();
        let mut fields = Fields(body);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (2, Value::Bytes(message)) => {
                    let mut fields = Fields(message);
                    while let Some((field, value)) = fields.next()? {
                        if let (2, Value::Bytes(data)) = (field, value) {
                            this.data.push(data);
                        }
                    }
                }
                (3, Value::Bytes(control)) => this.control(control)?,
                _ => {}
            }
        }
        Ok(this)
    }

    fn control(&mut self, control: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields(control);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (2, Value::Bytes(want)) => {
                    let mut ids = Fields(want);
                    while ids.next()?.is_some() {
                        self.wanted = self.wanted.saturating_add(1);
                    }
                }
                (3, Value::Bytes(_)) => self.grafts = self.grafts.saturating_add(1),
                (4, Value::Bytes(_)) => self.prunes = self.prunes.saturating_add(1),
                _ => {}
            }
        }
        Ok(())
    }
}

enum Value<'a> {
    Bytes(&'a [u8]),
    /// A number, which nothing here asks for.
    Number,
}

/// The fields of a protobuf message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => {
                self.varint()?;
                Value::Number
            }
            FIXED64 => {
                self.take(8)?;
                Value::Number
            }
            FIXED32 => {
                self.take(4)?;
                Value::Number
            }
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut reader = Varint::default();
        loop {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            if let Some(value) = reader.push(*byte)? {
                return Ok(value);
            }
        }
    }
}

/// Reads a varint byte by byte, as a stream brings them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Varint {
    value: u64,
    bytes: u32,
}

impl Varint {
    /// The number, if this was its last byte. Ten bytes hold 64 bits; more are malformed.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<u64>, Malformed> {
        let bits = u64::from(byte & 0x7f);
        let shift = self.bytes * 7;
        if shift > 63 || bits << shift >> shift != bits {
            return Err(Malformed);
        }
        self.value |= bits << shift;
        self.bytes += 1;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(topic: &str, sequence: u64, data: Vec<u8>) -> Message {
        let author = nsn_p2p::identity::peer_id_of(&[1; 32]).unwrap();
        Message { author, data, sequence, topic: topic.to_owned() }
    }

    fn body(frame: &[u8]) -> &[u8] {
        let mut fields = Fields(frame);
        let len = fields.varint().unwrap();
        assert_eq!(usize::try_from(len).unwrap(), fields.0.len());
        fields.0
    }

    #[test]
    fn each_part_is_counted_as_what_it_is() {
        let message = message("t", 7, b"data".to_vec());
        let bytes = frame(&[
            Part::Subscribe("t"),
            Part::Graft("t"),
            Part::Publish(&message),
            Part::Prune("t"),
            Part::Graft("u"),
            Part::IHave("t", &[[1; 20], [2; 20]]),
        ]);
        let received = Received::read(body(&bytes)).unwrap();
        let wanted = Received { data: vec![b"data"], grafts: 2, prunes: 1, wanted: 0 };
        assert_eq!(received, wanted);
    }

    #[test]
    fn a_length_beyond_the_end_is_malformed() {
        assert_eq!(Received::read(&[0x12, 0x05, 1, 2]), Err(Malformed));
        assert_eq!(Received::read(&[0x12]), Err(Malformed));
        assert_eq!(Received::read(&[0xff; 11]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_number_is_written_and_read(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut fields = Fields(&bytes);
            prop_assert_eq!(fields.varint(), Ok(value));
            prop_assert!(fields.0.is_empty());
        }

        #[test]
        fn what_is_published_is_read(data: Vec<Vec<u8>>, sequence: u64, topic: String) {
            let messages: Vec<Message> =
                data.iter().map(|data| message(&topic, sequence, data.clone())).collect();
            let parts: Vec<Part<'_>> = messages.iter().map(Part::Publish).collect();
            let bytes = frame(&parts);
            let received = Received::read(body(&bytes)).unwrap();
            prop_assert_eq!(received.data, data);
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Received::read(&bytes);
        }
    }
}
