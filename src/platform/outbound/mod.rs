//! The only clients for outgoing requests and mails. HTTP: no redirects, no proxies, bounded in time and size. Never connects to
//! an address that is not public (RFC 6890), unless `outbound.allow` names it or this server's issuer is on loopback.

mod address_policy;
mod ca_file;
mod client;
mod content_coding;
mod delete;
mod deliver;
mod mail;
mod post;
mod proxy;

pub use self::address_policy::AddressPolicy;
pub use self::client::Outbound;
pub use self::deliver::{WebhookRequest, WebhookResponse};
pub use self::mail::{
    MailFailure, MailLogin, MailSecurity, MailServer, OutgoingMail, is_mail_address, is_mailbox,
};
pub use self::post::{PostRequest, PostResponse};
pub use self::proxy::{Bytes, Chunks, ForwardedField, UpstreamError, UpstreamRequest, UpstreamResponse};
