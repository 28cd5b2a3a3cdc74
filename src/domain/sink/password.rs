//! The password of a mail server, sealed like the signing secrets of other sinks.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{Sink, aad};
use crate::domain::data_key::{DataKeys, Sealed};
use crate::platform::fault::{Context, Fault};

#[derive(Serialize, Deserialize)]
struct StoredPassword {
    password: Option<String>,
}

/// Seals a password, or that there is none, in the transaction that stores it.
pub async fn seal_password(
    keys: &DataKeys,
    connection: &mut PgConnection,
    id: &str,
    password: Option<&SecretString>,
) -> Result<Sealed, Fault> {
    let stored = StoredPassword { password: password.map(|one| one.expose_secret().to_owned()) };
    let stored = serde_json::to_string(&stored).context("writing the password of a mail server")?;
    keys.seal(connection, &aad(id), SecretString::from(stored).expose_secret().as_bytes()).await
}

/// Opens the password of a sink.
pub async fn open_password(
    keys: &DataKeys,
    connection: &mut PgConnection,
    sink: &Sink,
) -> Result<Option<SecretString>, Fault> {
    let bytes = keys.open(connection, &aad(&sink.id), &sink.sealed).await?;
    let stored: StoredPassword =
        serde_json::from_slice(&bytes).context("reading the password of a mail server")?;
    Ok(stored.password.map(SecretString::from))
}
