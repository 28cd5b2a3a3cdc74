//! Reads many consecutive events by one `COPY` in the binary format of PostgreSQL. By the row protocol they would cost more
//! than hashing or writing them.

use std::ops::Range;

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;

use crate::platform::fault::Fault;

/// Signature of a binary copy; eight bytes of flags follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Events as PostgreSQL copied them out, in order; missing events are skipped.
#[derive(Debug)]
pub struct CopiedRows(Vec<u8>);

#[derive(Debug)]
pub struct CopiedRow<'a> {
    pub seq: u64,
    /// The canonical document.
    pub document: &'a [u8],
    /// The personal data beside the document, where it was read and is short.
    pub personal: Option<&'a [u8]>,
    /// The SHA-256 of longer personal data, in hexadecimal: of thousands of steps, it would fill the memory.
    pub personal_sha256: Option<&'a [u8]>,
}

impl CopiedRows {
    /// The documents in a range of `seq`.
    pub async fn documents(connection: &mut PgConnection, range: Range<u64>) -> Result<Self, Fault> {
        Self::read(connection, "NULL, NULL", range).await
    }

    /// The documents in a range of `seq`, with the personal data beside them.
    pub async fn with_personal(connection: &mut PgConnection, range: Range<u64>) -> Result<Self, Fault> {
        let columns = "CASE WHEN octet_length(personal) <= 1024 THEN personal END,
             CASE WHEN octet_length(personal) > 1024 THEN encode(sha256(convert_to(personal, 'UTF8')), 'hex') END";
        Self::read(connection, columns, range).await
    }

    async fn read(
        connection: &mut PgConnection,
        personal: &'static str,
        Range { start, end }: Range<u64>,
    ) -> Result<Self, Fault> {
        let statement = format!(
            "COPY (SELECT seq, document, {personal} FROM audit_event WHERE seq >= {start} AND seq < {end} ORDER BY seq)
             TO STDOUT (FORMAT binary)"
        );
        let mut stream = connection.copy_out_raw(&statement).await?;
        let mut rows = Vec::new();
        while let Some(part) = stream.try_next().await? {
            rows.extend_from_slice(&part);
        }
        Ok(Self(rows))
    }

    /// The rows, up to the first that cannot be read.
    pub fn iter(&self) -> impl Iterator<Item = Result<CopiedRow<'_>, Fault>> {
        let mut rest = self.0.strip_prefix(SIGNATURE).and_then(|rest| rest.get(8..));
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = rest.and_then(row);
            ended = !matches!(next, Some(Some(_)));
            match next {
                Some(Some((found, behind))) => {
                    rest = Some(behind);
                    Some(Ok(found))
                }
                Some(None) => None,
                None => Some(Err(Fault::new("what PostgreSQL copied out cannot be read"))),
            }
        })
    }
}

/// The next row and the rest; `Some(None)` at the end of the copy, `None` for malformed bytes.
fn row(bytes: &[u8]) -> Option<Option<(CopiedRow<'_>, &[u8])>> {
    let (columns, rest) = bytes.split_first_chunk::<2>()?;
    match i16::from_be_bytes(*columns) {
        -1 => Some(None),
        4 => {
            let (seq, rest) = field(rest)?;
            let (document, rest) = field(rest)?;
            let (personal, rest) = field(rest)?;
            let (personal_sha256, rest) = field(rest)?;
            let seq = u64::try_from(i64::from_be_bytes(seq?.try_into().ok()?)).unwrap_or(u64::MAX);
            Some(Some((CopiedRow { seq, document: document?, personal, personal_sha256 }, rest)))
        }
        _ => None,
    }
}

/// A column, which may be `NULL`, and the rest.
fn field(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 => Some((None, rest)),
        length => {
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Some(value), rest))
        }
    }
}
