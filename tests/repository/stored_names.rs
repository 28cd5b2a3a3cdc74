//! Names of variants that are stored as text: a database of an earlier version has them, so none ever changes.

use actchain::domain::client::{AuthMethod, ClientKind, DpopPolicy, GrantType};
use actchain::domain::delegation::Provenance;
use actchain::domain::key::KeyPurpose;
use actchain::domain::sink::SinkFormat;
use actchain_protocol::jose::SigningAlg;
use actchain_protocol::trusted_issuer_jwt::{ActorUse, MayActUse};
use sqlx::Encode;
use sqlx::postgres::{PgArgumentBuffer, Postgres};

/// The text that a value is stored as.
fn stored<T: for<'q> Encode<'q, Postgres>>(value: &T) -> String {
    let mut buffer = PgArgumentBuffer::default();
    assert!(!value.encode_by_ref(&mut buffer).unwrap().is_null());
    String::from_utf8(buffer.to_vec()).unwrap()
}

/// Compares each variant with its name. A variant that is not listed does not compile. With a column, the names are those
/// that the column accepts.
macro_rules! assert_stored {
    ($type:ident by $text:expr, $column:expr, { $($variant:ident = $name:literal),+ $(,)? }) => {
        let listed = |value: $type| match value { $($type::$variant => $name),+ };
        for value in [$($type::$variant),+] {
            assert_eq!($text(&value), listed(value), "{value:?}");
        }
        let column: Option<(&str, &str)> = $column;
        if let Some((file, column)) = column {
            let path = format!("{}/migrations/{file}.sql", env!("CARGO_MANIFEST_DIR"));
            let accepted = format!("{column} IN ({})", [$(concat!("'", $name, "'")),+].join(", "));
            assert!(std::fs::read_to_string(path).unwrap().contains(&accepted), "{file} has no {accepted}");
        }
    };
}

#[test]
fn stored_names_never_change() {
    assert_stored!(ClientKind by stored, Some(("0002_client", "kind")), {
        Agent = "agent",
        Service = "service",
        ResourceServer = "resource_server",
        Admin = "admin",
        Auditor = "auditor",
    });
    assert_stored!(AuthMethod by stored, Some(("0002_client", "auth")), {
        ClientSecretBasic = "client_secret_basic",
        ClientSecretPost = "client_secret_post",
        PrivateKeyJwt = "private_key_jwt",
        None = "none",
    });
    assert_stored!(DpopPolicy by stored, Some(("0002_client", "dpop")), {
        Required = "required",
        Optional = "optional",
    });
    assert_stored!(GrantType by |grant: &GrantType| grant.name().to_owned(), None, {
        ClientCredentials = "client_credentials",
        TokenExchange = "token-exchange",
        RefreshToken = "refresh_token",
    });
    assert_stored!(MayActUse by |usage: &MayActUse| usage.name().to_owned(), Some(("0003_registry", "may_act")), {
        Authorize = "authorize",
        Restrict = "restrict",
        Ignore = "ignore",
    });
    assert_stored!(ActorUse by |usage: &ActorUse| usage.name().to_owned(), Some(("0003_registry", "actors")), {
        Refuse = "refuse",
        Accept = "accept",
    });
    assert_stored!(KeyPurpose by stored, Some(("0004_key", "purpose")), {
        Token = "token",
        Checkpoint = "checkpoint",
    });
    assert_stored!(SigningAlg by |alg: &SigningAlg| alg.name().to_owned(), Some(("0004_key", "alg")), {
        ES256 = "ES256",
        Ed25519 = "Ed25519",
        RS256 = "RS256",
    });
    assert_stored!(Provenance by stored, Some(("0006_delegation", "origin")), {
        Declared = "declared",
        MayAct = "may_act",
        Granted = "granted",
        Requested = "requested",
    });
    assert_stored!(SinkFormat by |format: &SinkFormat| format.name().to_owned(), Some(("0013_sink", "format")), {
        Json = "json",
        Ndjson = "ndjson",
        Ocsf = "ocsf",
        Cef = "cef",
    });
}
