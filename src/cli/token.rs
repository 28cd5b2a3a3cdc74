//! `actchain token inspect|verify`: decodes and explains a token and its chain; verify checks it against a JWKS.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::{chain_view, print_json};
use crate::domain::client::usable_keys;
use crate::platform::clock::Clock;
use crate::platform::fault::{During, Fault};
use crate::platform::jose::{Alg, Jws};
use crate::platform::json as strict_json;
use crate::platform::outbound::{Outbound, Reach};
use crate::protocol::metadata::well_known_paths;
use crate::protocol::{access_token, jwt_time};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Decode and explain; believes nothing
    Inspect {
        /// The token; «-» reads it from standard input
        jwt: String,
        #[arg(long)]
        json: bool,
    },
    /// Check signature, type, issuer and times against the issuer's JWKS
    Verify {
        /// The token; «-» reads it from standard input
        jwt: String,
        /// Where the keys are: a URL or a file; absent means what the issuer's metadata says
        #[arg(long, value_name = "URL|FILE")]
        jwks: Option<String>,
        /// Whom the token has to be for
        #[arg(long)]
        audience: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> Result<ExitCode, Fault> {
    match command {
        Command::Inspect { jwt, json } => {
            let jwt = read(jwt)?;
            let jws = Jws::parse(&jwt).ok_or_else(|| Fault::new("this is no JWT in compact form"))?;
            explain(&jws, json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { jwt, jwks, audience, json } => {
            let jwt = read(jwt)?;
            let jws = Jws::parse(&jwt).ok_or_else(|| Fault::new("this is no JWT in compact form"))?;
            let wrong = check(&jws, jwks.as_deref(), audience.as_deref()).await?;
            match (&wrong, json) {
                (wrong, true) => {
                    print_json(&json!({"valid": wrong.is_none(), "reason": wrong, "claims": jws.claims}))?
                }
                (None, false) => {
                    explain(&jws, false)?;
                    println!("valid");
                }
                (Some(wrong), false) => println!("not valid: {wrong}"),
            }
            Ok(if wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn read(jwt: String) -> Result<String, Fault> {
    if jwt != "-" {
        return Ok(jwt);
    }
    let text = std::io::read_to_string(std::io::stdin()).during("reading standard input")?;
    Ok(text.trim().to_owned())
}

fn explain(jws: &Jws<'_>, json: bool) -> Result<(), Fault> {
    let header = json!({"alg": jws.header.alg, "typ": jws.header.typ, "kid": jws.header.kid});
    if json {
        return print_json(&json!({"header": header, "claims": jws.claims}));
    }
    println!("header      {header}");
    println!("chain       {}", chain_view::draw(&jws.claims).replace('\n', "\n            "));
    for (name, value) in jws.claims.iter().filter(|(name, _)| *name != "act") {
        println!("{name:<11} {value}");
    }
    Ok(())
}

/// The first thing that is wrong, if anything is.
async fn check(jws: &Jws<'_>, jwks: Option<&str>, audience: Option<&str>) -> Result<Option<String>, Fault> {
    let set = match jwks {
        Some(path) if !path.contains("://") => std::fs::read(path).during(&format!("reading {path}"))?,
        Some(url) => outbound()?.get_json(url).await?,
        None => published(&jws.claims).await?,
    };
    let keys = strict_json::parse(&set).as_ref().and_then(usable_keys);
    let keys = keys.ok_or_else(|| Fault::new("there is no JWK Set there"))?;
    let kid = jws.header.kid.as_deref();
    let wrong = if !jws.header.is_typed(access_token::TYP) {
        Some("its typ is not at+jwt".to_owned())
    } else if !keys.iter().any(|key| key.kid() == kid && jws.verified_by(key, &Alg::ALL)) {
        Some("no key of the set has signed it".to_owned())
    } else if access_token::read_claims(&jws.claims).is_none() {
        Some("a required claim is missing or malformed".to_owned())
    } else if !jwt_time::validity(&jws.claims).is_some_and(|validity| validity.holds_at(Clock::System.now()))
    {
        Some("it has expired or is not valid yet".to_owned())
    } else {
        audience.filter(|name| !is_for(&jws.claims, name)).map(|name| format!("it is not for {name}"))
    };
    Ok(wrong)
}

fn is_for(claims: &Map<String, Value>, audience: &str) -> bool {
    access_token::audience(claims).is_some_and(|aud| aud.values().iter().any(|name| name == audience))
}

fn outbound() -> Result<Outbound, Fault> {
    Outbound::new(Reach::PublicAndLoopback)
}

/// The JWK Set that the metadata of the token's issuer points to (RFC 8414 §3).
async fn published(claims: &Map<String, Value>) -> Result<Vec<u8>, Fault> {
    let issuer =
        claims.get("iss").and_then(Value::as_str).ok_or_else(|| Fault::new("the token has no iss"))?;
    let base = url::Url::parse(issuer).during("reading iss")?;
    let path = well_known_paths(issuer).into_iter().next().unwrap_or_default();
    let location = base.join(&path).during("reading iss")?;
    let document = outbound()?.get_json(location.as_str()).await?;
    let document =
        strict_json::parse_object(&document).ok_or_else(|| Fault::new("the metadata is no object"))?;
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(Fault::new("the metadata is of another issuer"));
    }
    let jwks = document.get("jwks_uri").and_then(Value::as_str).ok_or_else(|| Fault::new("no jwks_uri"))?;
    outbound()?.get_json(jwks).await
}
