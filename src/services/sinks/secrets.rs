//! The secrets of a sink, and what a declaration changes about them: signing secrets, or the password of a mail server.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::data_key::{DataKeys, Sealed};
use crate::domain::sink::{SigningSecrets, Sink, open_password, seal_password};
use crate::platform::fault::Fault;
use crate::services::apply::SecretChange;
use actchain_protocol::standard_webhooks::Secret;

/// A declared secret, by what the sink uses it for.
pub(super) enum DeclaredSecret {
    Signing(Option<Secret>),
    /// `None` if the sink has no login at the mail server.
    Login(Option<DeclaredPassword>),
}

/// The password of a login.
pub(super) enum DeclaredPassword {
    Set(SecretString),
    /// The stored one stays.
    Kept,
}

/// The stored secrets of a sink.
pub(super) enum SinkSecrets {
    Signing(SigningSecrets),
    Password(Option<SecretString>),
}

/// The secrets after a declaration.
pub(super) struct SecretUpsert {
    pub(super) secrets: SinkSecrets,
    pub(super) change: Option<SecretChange>,
    pub(super) note: Option<&'static str>,
}

impl SinkSecrets {
    pub(super) async fn open(
        keys: &DataKeys,
        connection: &mut PgConnection,
        sink: &Sink,
    ) -> Result<Self, Fault> {
        Ok(match sink.mail() {
            Some(_) => Self::Password(open_password(keys, connection, sink).await?),
            None => Self::Signing(SigningSecrets::open(keys, connection, sink).await?),
        })
    }

    pub(super) async fn seal(
        &self,
        keys: &DataKeys,
        connection: &mut PgConnection,
        id: &str,
    ) -> Result<Sealed, Fault> {
        match self {
            Self::Signing(secrets) => secrets.seal(keys, connection, id).await,
            Self::Password(password) => seal_password(keys, connection, id, password.as_ref()).await,
        }
    }

    /// The secrets of a new sink, and the signing secret if it was generated.
    pub(super) fn first(declared: DeclaredSecret) -> Result<(Self, Option<SecretString>), Fault> {
        Ok(match declared {
            DeclaredSecret::Signing(Some(secret)) => (Self::Signing(SigningSecrets::declared(secret)), None),
            DeclaredSecret::Signing(None) => {
                let made = Secret::generate()?;
                let text = made.text();
                (Self::Signing(SigningSecrets::made(made)), Some(text))
            }
            DeclaredSecret::Login(Some(DeclaredPassword::Set(password))) => {
                (Self::Password(Some(password)), None)
            }
            DeclaredSecret::Login(_) => (Self::Password(None), None),
        })
    }

    /// Replaces what is declared differently. A secret of an older manifest does not replace a rotated one.
    pub(super) fn declared(self, declared: DeclaredSecret, now: OffsetDateTime) -> SecretUpsert {
        let unchanged = |secrets| SecretUpsert { secrets, change: None, note: None };
        match (self, declared) {
            (Self::Signing(secrets), DeclaredSecret::Signing(Some(secret))) => signing(secrets, secret, now),
            (Self::Password(old), DeclaredSecret::Login(declared)) => {
                let next = match declared {
                    Some(DeclaredPassword::Set(password)) => Some(password),
                    Some(DeclaredPassword::Kept) => old.clone(),
                    None => None,
                };
                let text =
                    |one: &Option<SecretString>| one.as_ref().map(|one| one.expose_secret().to_owned());
                let change = (text(&old) != text(&next)).then_some(SecretChange::Replaced);
                SecretUpsert { secrets: Self::Password(next), change, note: None }
            }
            (secrets, _) => unchanged(secrets),
        }
    }
}

fn signing(mut secrets: SigningSecrets, secret: Secret, now: OffsetDateTime) -> SecretUpsert {
    let is_declared = Some(&secret) == secrets.declared.as_ref();
    let (mut change, mut note) = (None, None);
    match secret == secrets.current {
        true if !is_declared => {
            secrets.declared = Some(secret);
            change = Some(SecretChange::Recorded);
        }
        false if !is_declared => {
            secrets = SigningSecrets { declared: Some(secret.clone()), ..secrets.followed_by(secret, now) };
            change = Some(SecretChange::Replaced);
        }
        false => {
            note =
                Some("the secret was rotated since it was declared, and stays; declare the new one, or none");
        }
        true => {}
    }
    SecretUpsert { secrets: SinkSecrets::Signing(secrets), change, note }
}
