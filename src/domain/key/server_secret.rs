//! Secrets that all servers of a database share, sealed under the master key.

use sqlx::PgConnection;
use zeroize::Zeroizing;

use super::store;
use crate::platform::fault::Fault;
use crate::platform::seal::SealingKey;

/// Name of the secret that determines the status index of each new token. It is stored because a change with the
/// master key would assign the same index to two tokens.
pub const PLACES: &str = "status_places";

/// Name of the secret for row MACs. It is stored so that rows stay authentic when the master key is replaced.
pub const ROW_MAC: &str = "row_mac";

pub const SHARED_SECRETS: [&str; 2] = [PLACES, ROW_MAC];

/// Opens a 32-byte secret that all servers share.
pub async fn shared_secret(
    connection: &mut PgConnection,
    seal: &SealingKey,
    name: &str,
) -> Result<Zeroizing<[u8; 32]>, Fault> {
    let sealed = store::find_secret(connection, name).await?;
    let sealed = sealed.ok_or_else(|| Fault::new(format!("the secret {name} is missing")))?;
    let secret = seal.open(&secret_row(name), &sealed)?;
    let bytes = <[u8; 32]>::try_from(secret.as_slice());
    bytes.map(Zeroizing::new).map_err(|_| Fault::new(format!("the secret {name} has not 32 bytes")))
}

/// The additional authenticated data of a shared secret.
pub fn secret_row(name: &str) -> String {
    format!("server_secret/{name}")
}
