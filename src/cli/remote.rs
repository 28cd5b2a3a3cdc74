//! Commands against a server elsewhere: as an administrator, with a client id and a private key.

use std::path::PathBuf;

use actchain_client::{ApiCall, Authentication, Client, Error, Key};
use secrecy::SecretString;
use serde_json::Value;

use crate::platform::fault::{Context, Fault};

/// Which server, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RemoteArgs {
    /// Issuer of a server elsewhere, which is called over HTTP as an administrator
    #[arg(long, value_name = "URL", requires_all = ["client", "key"])]
    server: Option<String>,
    /// The id of the client of kind admin, which authenticates by `private_key_jwt`
    #[arg(long, value_name = "ID", requires = "server")]
    client: Option<String>,
    /// The private key of the client: PKCS#8 in PEM, on P-256 or Ed25519
    #[arg(long, value_name = "FILE", requires = "server")]
    key: Option<PathBuf>,
}

/// An administrator at a server elsewhere.
pub(super) struct RemoteServer {
    client: Client,
    issuer: String,
}

impl RemoteArgs {
    /// The named server; `None` for the database of this machine.
    pub(super) fn server(&self) -> Result<Option<RemoteServer>, Fault> {
        let (Some(issuer), Some(id), Some(key)) = (&self.server, &self.client, &self.key) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(key).context(&format!("reading {}", key.display()))?;
        let key = Key::from_pem(&SecretString::from(text)).context(&format!("reading {}", key.display()))?;
        let client = Client::builder(issuer, id, key).authentication(Authentication::PrivateKeyJwt).build();
        let client = client.context("--server")?;
        Ok(Some(RemoteServer { client, issuer: issuer.clone() }))
    }
}

impl RemoteServer {
    /// The body of a successful answer.
    pub(super) async fn call(&self, call: &ApiCall<'_>) -> Result<Vec<u8>, Fault> {
        let calling = async {
            let token = self.client.client_credentials().audience(&self.issuer).token().await?;
            self.client.call(&token, call).await
        };
        let answer = calling.await.map_err(|error: Error| Fault::caused(self.issuer.clone(), error))?;
        if answer.status < 300 {
            return Ok(answer.body);
        }
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(Value::as_str);
        let reason = text("reason").map(|reason| format!("{reason}: ")).unwrap_or_default();
        let why = text("detail").or(text("title")).unwrap_or("the answer is not from this program");
        Err(Fault::new(format!("{}: {} {reason}{why}", self.issuer, answer.status)))
    }
}
