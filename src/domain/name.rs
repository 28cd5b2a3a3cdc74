//! Names that URLs and command lines can carry, and names that exist.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::platform::fault::Fault;

/// Whether a URL path and a command line can carry a name. RFC 3986 §5.2.4 removes the path segments `.` and `..`;
/// commands read an argument that begins with `-` as an option.
pub fn is_addressable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.split('/').all(|part| part != "." && part != "..")
}

/// Whether a text has the form of an id that this server makes: a UUID of version 7 or 8. Other issuers use other
/// versions for their users.
pub fn is_made_here(text: &str) -> bool {
    Uuid::try_parse(text).is_ok_and(|id| matches!(id.get_version_num(), 7 | 8))
}

/// Whether something that operators or this server have named has this name: a client, provider, connection or sink.
pub async fn exists(connection: &mut PgConnection, name: &str) -> Result<bool, Fault> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM client WHERE client_id = $1) OR EXISTS (SELECT FROM provider WHERE id = $1)
             OR EXISTS (SELECT FROM connection WHERE id = $1) OR EXISTS (SELECT FROM audit_sink WHERE id = $1)",
    );
    Ok(found.bind(name).fetch_one(connection).await?)
}
