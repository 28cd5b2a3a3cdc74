//! Exchanges a user's token as an agent, and prints what the new token allows.
//!
//!     cargo run -p actchain-client --example exchange -- https://as.example.com mail-agent agent-key.pem https://mail.example.com < token
//!
//! The client is registered with `auth: none` and the thumbprint that the first run prints.

use std::io::Read as _;

use actchain_client::{Client, Error, Key, Presented};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [issuer, client_id, key_file, audience] = arguments.as_slice() else {
        return Err("usage: exchange ISSUER CLIENT_ID KEY_FILE AUDIENCE < TOKEN".into());
    };
    let key = Key::load_or_generate(key_file.as_ref())?;
    eprintln!("thumbprint of the key: {}", key.thumbprint());
    let mut subject = String::new();
    std::io::stdin().read_to_string(&mut subject)?;
    let agent = Client::builder(issuer, client_id, key).build()?;
    match agent.exchange(Presented::jwt(subject.trim())).audience(audience).token().await {
        Ok(token) => println!(
            "scope {:?}, delegation {:?}, until {}",
            token.scope, token.delegation_id, token.expires_at
        ),
        Err(Error::Refused(refused)) => println!("refused: {} {:?}", refused.error, refused.reason),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
