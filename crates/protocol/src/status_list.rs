//! Token status lists (draft-ietf-oauth-status-list §4 to §7): two bits for each token, packed and compressed. The
//! index of a token does not reveal when the token was issued (§12, §13.3).

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base64url;
use crate::digest::MacKey;
use crate::failure::{Context as _, Failure};

/// Bits of an entry; one bit could not express suspension (§7.1).
pub const BITS: u8 = 2;
/// Number of entries in a list.
pub const SIZE: u64 = 1 << 20;
/// The `typ` of a status list token (§5.1).
pub const TYP: &str = "statuslist+jwt";
/// The media type of the response (§8.2).
pub const MEDIA_TYPE: &str = "application/statuslist+jwt";

const ENTRIES_PER_BYTE: u64 = 8 / BITS as u64;
const BYTES: usize = (SIZE / ENTRIES_PER_BYTE) as usize;
const MASK: u8 = (1 << BITS) - 1;
/// `exp` of a list is this many times `ttl` after `iat`.
const TTLS_TO_LIVE: i64 = 10;
/// The highest compression level (§4.1: RECOMMENDED).
const LEVEL: u32 = 9;

/// The status of a token in a list (§7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Valid, as far as the list says.
    Valid = 0,
    /// Revoked permanently.
    Invalid = 1,
    /// Not valid now; may become valid again.
    Suspended = 2,
}

/// The statuses of one list, packed.
#[derive(Clone, PartialEq, Eq)]
pub struct StatusList {
    bytes: Vec<u8>,
}

impl StatusList {
    /// A list in which every status is valid.
    pub fn new() -> Self {
        Self { bytes: vec![0; BYTES] }
    }

    /// A list with all entries invalid.
    pub fn invalid() -> Self {
        // Two bits for each entry.
        Self { bytes: vec![0b0101_0101; BYTES] }
    }

    /// Decodes `lst`. `None` unless it is canonical base64url of one complete ZLIB stream of exactly [`SIZE`] entries.
    pub fn read(lst: &str) -> Option<Self> {
        inflate(lst, BYTES).map(|bytes| Self { bytes })
    }

    /// Sets one status; `false`, without a change, if the index is out of range.
    pub fn set(&mut self, index: u64, status: Status) -> bool {
        self.put(index, status as u8)
    }

    /// Reads one status; `None` if the index is out of range or the value is not a known status.
    pub fn get(&self, index: u64) -> Option<Status> {
        match self.value(index)? {
            0 => Some(Status::Valid),
            1 => Some(Status::Invalid),
            2 => Some(Status::Suspended),
            _ => None,
        }
    }

    /// The `lst` of the list: base64url of its ZLIB stream (§4.1, RFC 1950).
    ///
    /// # Errors
    /// An error of the encoder, which does not fail for memory.
    pub fn compressed(&self) -> Result<String, Failure> {
        let mut stream = ZlibEncoder::new(Vec::new(), Compression::new(LEVEL));
        let written = stream.write_all(&self.bytes).and_then(|()| stream.finish());
        Ok(base64url::encode(written.context("compressing a status list")?))
    }

    fn put(&mut self, index: u64, value: u8) -> bool {
        let (byte, shift) = position(index);
        let Some(byte) = self.bytes.get_mut(byte) else { return false };
        *byte = (*byte & !(MASK << shift)) | ((value & MASK) << shift);
        true
    }

    fn value(&self, index: u64) -> Option<u8> {
        let (byte, shift) = position(index);
        self.bytes.get(byte).map(|byte| (byte >> shift) & MASK)
    }
}

impl Default for StatusList {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for StatusList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusList({} bytes)", self.bytes.len())
    }
}

/// The byte of an entry, and the shift in it: bytes fill from the least significant bit (§4.1).
fn position(index: u64) -> (usize, u64) {
    let byte = usize::try_from(index / ENTRIES_PER_BYTE).unwrap_or(usize::MAX);
    (byte, index % ENTRIES_PER_BYTE * u64::from(BITS))
}

/// Decompresses to a known length, and stops after it if the data is longer.
fn inflate(lst: &str, length: usize) -> Option<Vec<u8>> {
    let compressed = base64url::decode(lst)?;
    let mut stream = ZlibDecoder::new(compressed.as_slice());
    let mut bytes = Vec::with_capacity(length);
    // Reading one byte more than expected makes the decoder reach, and check, the end of the stream.
    stream.by_ref().take(u64::try_from(length).ok()? + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() == length && stream.get_ref().is_empty()).then_some(bytes)
}

/// The claims of a status list token (§5.1) that was issued at `issued_at` and may be cached for `ttl` seconds.
///
/// # Errors
/// As [`StatusList::compressed`].
pub fn claims(uri: &str, list: &StatusList, issued_at: i64, ttl: u32) -> Result<Value, Failure> {
    // §5.1: a positive number
    let ttl = ttl.max(1);
    Ok(json!({
        "sub": uri,
        "iat": issued_at,
        "exp": issued_at.saturating_add(TTLS_TO_LIVE * i64::from(ttl)),
        "ttl": ttl,
        "status_list": {"bits": BITS, "lst": list.compressed()?},
    }))
}

/// The `status` claim of an access token (§6.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusClaim {
    /// The only mechanism that this crate knows.
    pub status_list: Reference,
}

/// The entry of a token in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The entry in the list, from 0.
    pub idx: u64,
    /// The URI of the list, also its `sub` claim.
    pub uri: String,
}

/// The position of a token's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusIndex {
    /// The number in the URI of the list.
    pub list: u64,
    /// The entry in the list, less than [`SIZE`].
    pub idx: u64,
}

/// As many rounds as FF1 of NIST SP 800-38G. With halves this short, an observer of about a thousand indexes can tell
/// four rounds from random order.
const ROUNDS: u8 = 10;
/// Bits of each half of an index in the Feistel network.
const HALF_BITS: u32 = SIZE.trailing_zeros() / 2;
const HALF: u64 = (1 << HALF_BITS) - 1;

/// Allocates indexes to tokens. Lists are filled one after the other, each in its own secret order
/// (draft-ietf-oauth-status-list §12, §13.3). A Feistel network over the index is a permutation, so no index is used
/// twice.
#[derive(Debug, Clone)]
pub struct IndexAllocator(MacKey);

impl IndexAllocator {
    /// Derives the order from a key that has no other purpose. All servers must use the same key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(MacKey::new(key))
    }

    /// The index of the token with the running number `n`.
    pub fn place(&self, n: u64) -> StatusIndex {
        let (list, index) = (n / SIZE, n % SIZE);
        let (left, right) = (0..ROUNDS).fold((index >> HALF_BITS, index & HALF), |(left, right), round| {
            (right, left ^ self.scramble(list, round, right))
        });
        StatusIndex { list, idx: (left << HALF_BITS) | right }
    }

    fn scramble(&self, list: u64, round: u8, half: u64) -> u64 {
        let message = (u128::from(list) << 64) | (u128::from(round) << HALF_BITS) | u128::from(half);
        let [high, low, ..] = self.0.mac(&message.to_be_bytes());
        u64::from(u16::from_be_bytes([high, low])) & HALF
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{hex, sha256};
    use crate::vectors;
    use std::collections::HashSet;

    #[test]
    fn one_bit_lists_decompress() {
        assert_eq!(inflate("eNrbuRgAAhcBXQ", 2).unwrap(), [0xb9, 0xa3]);
    }

    #[test]
    fn two_bits_pack_from_the_least_significant_bit_up() {
        let mut list = StatusList { bytes: vec![0; 3] };
        let values = [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3];
        assert!((0..).zip(values).all(|(index, value)| list.put(index, value)));
        assert_eq!(hex(&list.bytes), "c944f9");
        assert_eq!((0..12).map_while(|index| list.value(index)).collect::<Vec<_>>(), values);
        assert_eq!(inflate("eNo76fITAAPfAgc", 3).unwrap(), list.bytes);
        assert_eq!(inflate(&list.compressed().unwrap(), 3).unwrap(), list.bytes);
    }

    #[test]
    fn a_long_one_bit_list_decompresses() {
        for case in vectors::cases(include_str!("../vectors/status-lists.json")) {
            let (bits, entries) = (case["bits"].as_u64().unwrap(), case["entries"].as_u64().unwrap());
            let mut bytes = vec![0u8; (entries * bits / 8) as usize];
            for (index, value) in case["statuses"].as_object().unwrap() {
                let (bit, value) = (index.parse::<u64>().unwrap() * bits, value.as_u64().unwrap());
                bytes[(bit / 8) as usize] |= u8::try_from(value << (bit % 8)).unwrap();
            }
            assert_eq!(hex(&sha256(&[&bytes])), case["bytes_sha256"], "{}", case["name"]);
            assert!(inflate(vectors::text(&case, "lst"), bytes.len()).unwrap() == bytes, "{}", case["name"]);
        }
    }

    #[test]
    fn a_long_two_bit_list_is_written_and_read() {
        let cases = vectors::cases(include_str!("../vectors/status-lists.json"));
        let case = cases.iter().find(|case| case["bits"] == 2 && case["entries"] == SIZE).unwrap();
        let mut list = StatusList::new();
        for (index, value) in case["statuses"].as_object().unwrap() {
            assert!(list.put(index.parse().unwrap(), value.as_u64().unwrap().try_into().unwrap()));
        }
        assert_eq!(hex(&sha256(&[&list.bytes])), case["bytes_sha256"]);
        assert!(StatusList::read(vectors::text(case, "lst")).unwrap() == list);
        assert!(StatusList::read(&list.compressed().unwrap()).unwrap() == list);
        assert_eq!((list.get(1993), list.get(1994)), (Some(Status::Suspended), Some(Status::Valid)));
        assert_eq!(list.get(159495), None, "a value that has no meaning here");
    }

    #[test]
    fn an_entry_is_set_alone_and_in_range() {
        let mut list = StatusList::new();
        assert!(
            list.set(4, Status::Suspended)
                && list.set(5, Status::Invalid)
                && list.set(SIZE - 1, Status::Invalid)
        );
        assert_eq!(list.bytes[1], 0b0110);
        assert!(list.set(4, Status::Valid));
        assert_eq!((list.bytes[1], list.bytes[BYTES - 1]), (0b0100, 0b0100_0000));
        assert_eq!((list.get(4), list.get(5)), (Some(Status::Valid), Some(Status::Invalid)));
        for out in [SIZE, u64::MAX] {
            assert!(!list.set(out, Status::Invalid) && list.get(out).is_none(), "{out}");
        }
    }

    #[test]
    fn only_whole_zlib_streams_of_the_right_length_are_read() {
        let lst = StatusList::new().compressed().unwrap();
        let stream = base64url::decode(&lst).unwrap();
        // RFC 1950 §2.2: DEFLATE, at the level of "maximum compression, slowest algorithm".
        assert_eq!(stream[..2], [0x78, 0xda]);
        assert!(StatusList::read(&lst).is_some() && StatusList::read(&format!("{lst}=")).is_none());
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), Compression::new(LEVEL));
        raw.write_all(&vec![0; BYTES]).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        gzip.write_all(&vec![0; BYTES]).unwrap();
        let mut wrong_sum = stream.clone();
        *wrong_sum.last_mut().unwrap() ^= 1;
        let shorter =
            base64url::decode(StatusList { bytes: vec![0; BYTES - 1] }.compressed().unwrap()).unwrap();
        let longer =
            base64url::decode(StatusList { bytes: vec![0; BYTES + 1] }.compressed().unwrap()).unwrap();
        for (what, bytes) in [
            ("nothing", vec![]),
            ("raw deflate", raw.finish().unwrap()),
            ("gzip", gzip.finish().unwrap()),
            ("cut short", stream[..stream.len() - 1].to_vec()),
            ("something behind", [stream.as_slice(), b"x"].concat()),
            ("a wrong checksum", wrong_sum),
            ("an entry too few", shorter),
            ("an entry too many", longer),
        ] {
            assert!(StatusList::read(&base64url::encode(bytes)).is_none(), "{what}");
        }
    }

    #[test]
    fn a_status_list_token_has_the_uri_of_its_list_and_its_times() {
        let mut list = StatusList::new();
        list.set(7, Status::Invalid);
        let claims = claims("https://as.example.com/status/3", &list, 1_700_000_000, 60).unwrap();
        assert_eq!(
            claims,
            json!({"sub": "https://as.example.com/status/3", "iat": 1_700_000_000, "exp": 1_700_000_600, "ttl": 60,
                   "status_list": {"bits": 2, "lst": list.compressed().unwrap()}})
        );
        let lst = claims["status_list"]["lst"].as_str().unwrap();
        assert_eq!(StatusList::read(lst).unwrap().get(7), Some(Status::Invalid));
        assert_eq!(super::claims("u", &list, 0, 0).unwrap()["ttl"], 1, "never 0");
    }

    #[test]
    fn a_status_index_is_a_whole_number_from_0_on() {
        let read = |idx: Value| {
            serde_json::from_value::<StatusClaim>(json!({"status_list": {"idx": idx, "uri": "u"}})).ok()
        };
        let claim = read(json!(3)).unwrap();
        assert_eq!(claim.status_list, Reference { idx: 3, uri: "u".to_owned() });
        assert_eq!(serde_json::to_value(&claim).unwrap(), json!({"status_list": {"idx": 3, "uri": "u"}}));
        for idx in [json!(-1), json!(1.5), json!(1.0), json!("3"), json!(null), json!([3])] {
            assert!(read(idx.clone()).is_none(), "{idx}");
        }
        for claim in [json!({}), json!({"status_list": {"idx": 3}}), json!({"status_list": {"uri": "u"}})] {
            assert!(serde_json::from_value::<StatusClaim>(claim.clone()).is_err(), "{claim}");
        }
    }

    /// The inverse of [`IndexAllocator::place`].
    fn number(places: &IndexAllocator, StatusIndex { list, idx }: StatusIndex) -> u64 {
        let (left, right) = (0..ROUNDS).rev().fold((idx >> HALF_BITS, idx & HALF), |(left, right), round| {
            (right ^ places.scramble(list, round, left), left)
        });
        list * SIZE + ((left << HALF_BITS) | right)
    }

    #[test]
    fn no_status_index_is_assigned_twice() {
        let places = IndexAllocator::new(&[7; 32]);
        let mut assigned = HashSet::new();
        for n in (0..20_000).chain(SIZE - 100..SIZE + 100).chain(u64::MAX - 100..=u64::MAX) {
            let place = places.place(n);
            assert_eq!(place.list, n / SIZE);
            assert!(place.idx < SIZE && assigned.insert((place.list, place.idx)), "{n}");
            assert_eq!(number(&places, place), n, "an index with an inverse is assigned once");
        }
    }

    #[test]
    fn status_indexes_show_no_order() {
        let places = IndexAllocator::new(&[7; 32]);
        let order = |from: u64| (from..from + 2_000).map(|n| places.place(n).idx).collect::<Vec<_>>();
        let (first, second) = (order(0), order(SIZE));
        let near = first.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 100).count();
        let up = first.windows(2).filter(|pair| pair[0] < pair[1]).count();
        let low = first.iter().filter(|idx| **idx < SIZE / 2).count();
        assert!(near < 5 && (900..1_100).contains(&up) && (900..1_100).contains(&low), "{near} {up} {low}");
        let alike = |other: &[u64]| first.iter().zip(other).filter(|(left, right)| left == right).count();
        assert!(alike(&second) < 5, "each list has an order of its own");
        let stranger = IndexAllocator::new(&[8; 32]);
        assert!(
            alike(&(0..2_000).map(|n| stranger.place(n).idx).collect::<Vec<_>>()) < 5,
            "and so has each key"
        );
        assert_eq!(IndexAllocator::new(&[7; 32]).place(5), places.place(5));
    }
}
