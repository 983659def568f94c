//! The envelope of every serialised object: magic, kind, version, length, checksum, postcard payload.
//!
//! Layout: `b"SONA" | kind [u8; 4] | version u16 | length u64 | blake3 [u8; 16] | payload`, little endian. The checksum is
//! the first 16 bytes of BLAKE3 over everything before it and the payload. Bytes are treated as hostile: nothing is
//! allocated from a length that was not checked against the bytes at hand.

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;

const MAGIC: &[u8; 4] = b"SONA";
const HEAD: usize = 4 + 4 + 2 + 8;
const SUM: usize = 16;

/// What kind of object the bytes hold, and the version of its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Four ASCII letters.
    pub tag: [u8; 4],
    /// Layout version; a reader refuses any other.
    pub version: u16,
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; SUM] {
    crate::checksum::blake3(head, payload)
}

/// Wraps `payload` in the envelope.
#[must_use]
pub fn seal(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + SUM + payload.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&kind.tag);
    out.extend_from_slice(&kind.version.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let sum = checksum(&out, payload);
    out.extend_from_slice(&sum);
    out.extend_from_slice(payload);
    out
}

/// Checks the envelope and returns the payload.
pub fn open(kind: Kind, bytes: &[u8]) -> Result<&[u8]> {
    let (head, sum, payload) = parts(kind, bytes)?;
    if checksum(head, payload) == sum {
        Ok(payload)
    } else {
        Err(Error::corrupt(what(kind), "checksum does not match"))
    }
}

fn what(kind: Kind) -> String {
    format!("{} state", String::from_utf8_lossy(&kind.tag))
}

/// Head, checksum and payload, everything checked but the checksum.
fn parts(kind: Kind, bytes: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let fail = |reason: String| Err(Error::corrupt(what(kind), reason));
    if bytes.len() < HEAD + SUM {
        return fail(format!("{} bytes are too few for a header", bytes.len()));
    }
    let (head, rest) = bytes.split_at(HEAD);
    let (sum, payload) = rest.split_at(SUM);
    if &head[..4] != MAGIC {
        return fail("not a sona file (bad magic)".into());
    }
    if head[4..8] != kind.tag {
        return fail(format!("holds {:?}", String::from_utf8_lossy(&head[4..8])));
    }
    let version = u16::from_le_bytes([head[8], head[9]]);
    if version != kind.version {
        return fail(format!(
            "layout version {version}, this build reads {}",
            kind.version
        ));
    }
    let mut len = [0; 8];
    len.copy_from_slice(&head[10..18]);
    if u64::from_le_bytes(len) != payload.len() as u64 {
        return fail(format!(
            "declares {} bytes, has {}",
            u64::from_le_bytes(len),
            payload.len()
        ));
    }
    Ok((head, sum, payload))
}

/// Serialises `value` into an envelope.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>> {
    let payload = postcard::to_stdvec(value).map_err(|e| Error::corrupt("serialise", e))?;
    Ok(seal(kind, &payload))
}

/// The kind of a state that has `more` in front of it.
fn extended(kind: Kind) -> Kind {
    let version = kind.version + 1;
    Kind { version, ..kind }
}

fn is_extended(kind: Kind, bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&kind.tag) && bytes.get(8..10) == Some(&extended(kind).version.to_le_bytes())
}

/// [`encode`] with room for what the layout of `kind` cannot say: it goes in front, under the next version number. With nothing
/// to say the bytes are those of [`encode`].
pub fn encode_with<M: Serialize, T: Serialize>(kind: Kind, more: Option<M>, value: &T) -> Result<Vec<u8>> {
    match more {
        Some(more) => encode(extended(kind), &(more, value)),
        None => encode(kind, value),
    }
}

/// Reads back what [`encode_with`] or [`encode`] wrote.
pub fn decode_with<'a, M, T>(kind: Kind, bytes: &'a [u8]) -> Result<(Option<M>, T)>
where
    M: Deserialize<'a>,
    T: Deserialize<'a>,
{
    if is_extended(kind, bytes) {
        decode(extended(kind), bytes).map(|(more, value)| (Some(more), value))
    } else {
        decode(kind, bytes).map(|value| (None, value))
    }
}

/// [`decode_with`] of a state inside another one, as [`decode_within`].
pub fn decode_with_within<'a, M, T>(kind: Kind, bytes: &'a [u8]) -> Result<(Option<M>, T)>
where
    M: Deserialize<'a>,
    T: Deserialize<'a>,
{
    if is_extended(kind, bytes) {
        decode_within(extended(kind), bytes).map(|(more, value)| (Some(more), value))
    } else {
        decode_within(kind, bytes).map(|value| (None, value))
    }
}

/// Reads back what [`encode`] wrote; the value may borrow from `bytes`.
pub fn decode<'a, T: Deserialize<'a>>(kind: Kind, bytes: &'a [u8]) -> Result<T> {
    read(kind, open(kind, bytes)?)
}

/// [`decode`] of a state inside another one whose checksum was found to match: that covers these bytes too.
pub fn decode_within<'a, T: Deserialize<'a>>(kind: Kind, bytes: &'a [u8]) -> Result<T> {
    read(kind, parts(kind, bytes)?.2)
}

fn read<'a, T: Deserialize<'a>>(kind: Kind, payload: &'a [u8]) -> Result<T> {
    let (value, rest) = postcard::take_from_bytes::<T>(payload)
        .map_err(|e| Error::corrupt(String::from_utf8_lossy(&kind.tag).into_owned(), e))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Error::corrupt(
            String::from_utf8_lossy(&kind.tag).into_owned(),
            format!("{} bytes left over", rest.len()),
        ))
    }
}

/// Bytes inside a state, written and read in one piece. The layout is that of a `Vec<u8>`, which serde takes byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob<'a>(pub Cow<'a, [u8]>);

impl From<Vec<u8>> for Blob<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> de::Visitor<'de> for Borrowed {
            type Value = &'de [u8];
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(bytes)
            }
        }
        d.deserialize_bytes(Borrowed).map(|b| Self(Cow::Borrowed(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const K: Kind = Kind {
        tag: *b"TEST",
        version: 3,
    };

    #[test]
    fn blobs_are_laid_out_like_vectors() {
        let plain = vec![0u8, 7, 255, 128];
        let bytes = encode(K, &plain).unwrap();
        assert_eq!(encode(K, &Blob::from(plain.clone())).unwrap(), bytes);
        assert_eq!(decode::<Blob<'_>>(K, &bytes).unwrap(), Blob::from(plain));
    }

    #[test]
    fn what_a_layout_cannot_say_goes_in_front_of_it() {
        let value = (7u32, "name".to_string());
        let plain = encode(K, &value).unwrap();
        assert_eq!(encode_with(K, None::<f64>, &value).unwrap(), plain);
        type Read = (Option<f64>, (u32, String));
        assert_eq!(
            decode_with::<f64, (u32, String)>(K, &plain).unwrap(),
            (None, value.clone())
        );
        let more = encode_with(K, Some(2.5), &value).unwrap();
        let read: [Result<Read>; 2] = [decode_with(K, &more), decode_with_within(K, &more)];
        for read in read {
            assert_eq!(read.unwrap(), (Some(2.5), value.clone()));
        }
        assert!(
            decode::<(u32, String)>(K, &more).is_err(),
            "not for readers of the first layout"
        );
        for cut in 0..more.len() {
            assert!(decode_with::<f64, (u32, String)>(K, &more[..cut]).is_err());
        }
    }

    #[test]
    fn every_bit_flip_and_truncation_is_refused() {
        let bytes = encode(K, &(7u32, vec![1.5f32, -2.0], "name".to_string())).unwrap();
        let back: (u32, Vec<f32>, String) = decode(K, &bytes).unwrap();
        assert_eq!(back, (7, vec![1.5, -2.0], "name".to_string()));
        for cut in 0..bytes.len() {
            assert!(decode::<(u32, Vec<f32>, String)>(K, &bytes[..cut]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut b = bytes.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(u32, Vec<f32>, String)>(K, &b).is_err(), "bit {bit}");
        }
    }
}
