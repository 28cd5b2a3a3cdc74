//! An agent's side of an actchain server: its key, DPoP proofs (RFC 9449), client authentication, token exchange
//! (RFC 8693), and a cache of issued tokens.
//!
//! ```no_run
//! use actchain_client::{Authentication, Client, Key, Presented};
//!
//! # async fn example(users_token: &str) -> Result<(), actchain_client::Error> {
//! let key = Key::load_or_generate("agent-key.pem".as_ref())?;
//! let agent = Client::builder("https://as.example.com", "mail-agent", key)
//!     .authentication(Authentication::PrivateKeyJwt)
//!     .build()?;
//! let token = agent
//!     .exchange(Presented::jwt(users_token))
//!     .audience("https://mail.example.com")
//!     .scope("mail.read")
//!     .token()
//!     .await?;
//! let proof = agent.proof("GET", "https://mail.example.com/inbox", Some(&token))?;
//! // Send `Authorization: DPoP <token.secret()>` and `DPoP: <proof>`.
//! # drop(proof);
//! # Ok(())
//! # }
//! ```
//!
//! Tokens are bound to the key: a copied token is useless without it. Nothing in this crate prints a token, secret or
//! private key, in `Debug` output and errors neither.

mod call;
mod client;
mod error;
mod key;
mod request;
mod token;

pub use call::{ApiAnswer, ApiCall};
pub use client::{Authentication, Client, ClientBuilder};
pub use error::{Error, Refused};
pub use key::Key;
pub use request::{Presented, TokenRequest};
pub use token::Token;
