//! Notifications: how often a sink informs users about requests that wait for their decision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::platform::outbound::{MailSecurity, MailServer, is_mail_address, is_mailbox};

/// Maximum number of requests that a message names; it says how many others there are.
pub const MAX_NAMED: usize = 10;
/// Maximum number of requests that are kept for a message and read again when it is sent. Of older ones only the number is
/// known.
pub const MAX_KEPT: usize = 1_000;
const MAX_ADDRESSES: usize = 10;
const MAX_RECIPIENTS: usize = 10_000;

/// A sink that tells users what waits for their decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SinkNotification")]
pub struct NotificationSettings {
    /// Seconds between the first request and the message. The message tells of all requests of this time.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 3600), example = 30)]
    pub wait: u32,
    /// Maximum number of messages to a recipient in an hour. The next message tells of what came in the meantime.
    #[serde(default = "six")]
    #[schemars(range(min = 1, max = 60), example = 6)]
    pub max_per_hour: u32,
    /// [Mail](audit-sinks.md#mail), sent by the server of `url`. Where absent, messages are posted as signed webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailSettings>,
}

/// Mail to users, sent by the server of the sink's `url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SinkMail")]
pub struct MailSettings {
    /// Sender, as an address with an optional name.
    #[schemars(length(max = 320), example = &"actchain <actchain@example.com>")]
    pub from: String,
    /// Name for the login at the mail server. `secret` of the sink is the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), example = &"actchain")]
    pub username: Option<String>,
    #[serde(default)]
    pub encryption: MailEncryption,
    /// Addresses that hear of the requests to all users, such as those of administrators.
    #[serde(default)]
    #[schemars(length(max = 10), example = &["security@example.com"])]
    pub to: Vec<String>,
    /// Addresses of users. A user without an address gets no mail.
    #[serde(default)]
    #[schemars(length(max = 10_000))]
    pub recipients: Vec<MailRecipient>,
}

/// The address of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SinkMailRecipient")]
pub struct MailRecipient {
    /// Issuer identifier, as in `delegator`.
    #[schemars(example = &"https://idp.example.com")]
    pub iss: String,
    /// Subject at that issuer, as in `delegator`.
    #[schemars(example = &"alice")]
    pub sub: String,
    /// Address that the user reads.
    #[schemars(length(max = 320), example = &"alice@example.com")]
    pub mail: String,
}

/// Whether the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SinkMailEncryption")]
pub enum MailEncryption {
    /// TLS with a verified certificate: `smtps` from the first byte, `smtp` by STARTTLS. Nothing is sent without it.
    #[default]
    Required,
    /// No TLS, for a mail server on this machine or in a network that is trusted. A login then needs a server on loopback.
    None,
}

fn thirty() -> u32 {
    30
}

fn six() -> u32 {
    6
}

/// Whether a recipient is an address of `to`, which hears of the requests to all users. Other recipients are pseudonyms of
/// users, which have no `@`.
pub fn is_address(recipient: &str) -> bool {
    recipient.contains('@')
}

impl NotificationSettings {
    /// The settings without mail addresses.
    #[must_use]
    pub fn without_addresses(self) -> Self {
        Self { mail: self.mail.map(MailSettings::without_addresses), ..self }
    }

    /// # Errors
    /// What is wrong, in words for the author of the declaration.
    pub fn check(&self) -> Result<(), String> {
        match (self.wait, self.max_per_hour) {
            (0..=3_600, 1..=60) => {}
            _ => {
                return Err(
                    "notification may have wait from 0 to 3600 and max_per_hour from 1 to 60".to_owned()
                );
            }
        }
        self.mail.as_ref().map_or(Ok(()), MailSettings::check)
    }
}

impl MailSettings {
    /// The mail server of a URL; `None` if the URL is not that of a mail server, or does not fit `encryption`.
    pub fn server(&self, url: &str) -> Option<MailServer> {
        let is_smtps = url.starts_with("smtps:");
        let security = match self.encryption {
            MailEncryption::Required if is_smtps => MailSecurity::Tls,
            MailEncryption::Required => MailSecurity::StartTls,
            MailEncryption::None => MailSecurity::Unencrypted,
        };
        MailServer::parse(url, security)
    }

    /// The address of a user.
    pub fn address_of(&self, iss: &str, sub: &str) -> Option<&str> {
        let found = self.recipients.iter().find(|one| one.iss == iss && one.sub == sub);
        found.map(|one| one.mail.as_str())
    }

    #[must_use]
    fn without_addresses(self) -> Self {
        Self { to: Vec::new(), recipients: Vec::new(), ..self }
    }

    fn check(&self) -> Result<(), String> {
        if !is_mailbox(&self.from) {
            return Err("notification.mail.from is no address".to_owned());
        }
        let addresses = self.to.iter().chain(self.recipients.iter().map(|one| &one.mail));
        if let Some(wrong) = addresses.into_iter().find(|one| !is_mail_address(one)) {
            return Err(format!("notification.mail: {wrong:?} is no address"));
        }
        if self.username.as_ref().is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return Err("notification.mail.username is no name".to_owned());
        }
        if self.to.len() > MAX_ADDRESSES || self.recipients.len() > MAX_RECIPIENTS {
            return Err("notification.mail may have 10 addresses in to and 10000 in recipients".to_owned());
        }
        let mut users: Vec<_> = self.recipients.iter().map(|one| (&one.iss, &one.sub)).collect();
        users.sort_unstable();
        match users.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(_) => Err("notification.mail.recipients names a user twice".to_owned()),
            None => Ok(()),
        }
    }
}
