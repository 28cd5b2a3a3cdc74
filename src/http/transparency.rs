//! The public transparency log (c2sp.org/tlog-tiles): checkpoint, keys, proofs and hash tiles without authentication.
//! Entry tiles contain events, and need a token that may read the whole log.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::credentials;
use crate::http::management::request::{HttpError, ManagementRequest, serve_audit};
use crate::http::params;
use crate::http::problem;
use crate::services::audit::{cosignatures, transparency};
use crate::services::caller::Caller;
use actchain_protocol::tlog_tiles::{Content, Tile};

/// A new checkpoint is signed every minute, and cosignatures of witnesses are added later.
const BRIEF: &str = "public, max-age=5";
/// A proof for a fixed tree size stays valid; only cosignatures can be added.
const LONG: &str = "public, max-age=3600";
/// A full tile never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const OCTETS: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

fn public(cache: &'static str, kind: &'static str, body: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, cache)).insert_header((CONTENT_TYPE, kind)).body(body)
}

fn to_response(result: Result<HttpResponse, Error>) -> HttpResponse {
    result.unwrap_or_else(|stop| problem::of(&stop, None))
}

fn json_of(cache: &'static str, value: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, cache)).json(value)
}

/// Reads for a request. An error of the service is returned unchanged.
async fn read<T, F>(app: &App, work: F) -> Result<T, Error>
where
    F: AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, Error>,
{
    app.read(async |connection| match work(connection).await {
        Err(Error::Failed(fault)) => Err(fault),
        Err(Error::Refused(refusal)) => Ok(Err(refusal)),
        Ok(done) => Ok(Ok(done)),
    })
    .await?
    .map_err(Error::Refused)
}

/// `GET /audit/checkpoint`: the newest checkpoint, with all its signatures.
pub(super) async fn checkpoint(app: Data<App>) -> HttpResponse {
    let found = app.read(async |connection| transparency::newest_checkpoint(connection).await).await;
    to_response(match found {
        Ok(Some((_, note))) => Ok(public(BRIEF, TEXT, note.into_bytes())),
        Ok(None) => Err(Refusal::NotFound.into()),
        Err(fault) => Err(fault.into()),
    })
}

/// `GET /audit/keys`: the keys that verify checkpoints, one a line; the key that signs now is the first.
pub(super) async fn keys(app: Data<App>) -> HttpResponse {
    let found =
        app.read(async |connection| transparency::published_keys(connection, &app.issuer).await).await;
    to_response(found.map(|keys| public(BRIEF, TEXT, keys.into_bytes())).map_err(Error::from))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfEvent {
    seq: u64,
    size: Option<u64>,
}

/// `GET /audit/proof/inclusion`.
pub(super) async fn inclusion(request: HttpRequest, app: Data<App>) -> HttpResponse {
    let prove = async || {
        let asked: OfEvent = params::query(&request)?;
        let cache = if asked.size.is_some() { LONG } else { BRIEF };
        let proof =
            read(&app, async |connection| transparency::inclusion(connection, asked.seq, asked.size).await);
        Ok(json_of(cache, &proof.await?))
    };
    to_response(prove().await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSizes {
    from: u64,
    to: Option<u64>,
}

/// `GET /audit/proof/consistency`.
pub(super) async fn consistency(request: HttpRequest, app: Data<App>) -> HttpResponse {
    let prove = async || {
        let asked: OfSizes = params::query(&request)?;
        let cache = if asked.to.is_some() { LONG } else { BRIEF };
        let proof =
            read(&app, async |connection| transparency::consistency(connection, asked.from, asked.to).await);
        Ok(json_of(cache, &proof.await?))
    };
    to_response(prove().await)
}

/// `GET /audit/tile/{level}/{tile}`.
pub(super) async fn tile(path: Path<String>, app: Data<App>) -> HttpResponse {
    let read_tile = async || {
        let tile = Tile::parse(&format!("tile/{path}")).ok_or(Refusal::NotFound)?;
        // Entry tiles have their own route, which needs an access token.
        if tile.content == Content::Entries {
            return Err(Error::Refused(Refusal::NotFound));
        }
        let bytes = read(&app, async |connection| transparency::tile(connection, tile).await).await?;
        Ok(public(if tile.is_full() { FOR_EVER } else { LONG }, OCTETS, bytes))
    };
    to_response(read_tile().await)
}

/// `GET /audit/tile/entries/{tile}`: events, for callers that may read the whole log.
pub(super) async fn entries(incoming: ManagementRequest, path: Path<String>) -> HttpResponse {
    serve_audit(incoming, async |known| {
        if !matches!(known.context.caller, Caller::Admin(_) | Caller::Auditor(_) | Caller::Operator) {
            return Err(HttpError::from(Refusal::InsufficientScope));
        }
        let tile = Tile::parse(&format!("tile/entries/{path}")).ok_or(Refusal::NotFound)?;
        let bytes = read(known.app, async |connection| transparency::tile(connection, tile).await).await?;
        Ok(HttpResponse::Ok()
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((CONTENT_TYPE, OCTETS))
            .body(bytes))
    })
    .await
}

#[derive(Serialize)]
struct Cosigned {
    /// Number of cosignatures that were new.
    added: usize,
}

/// `POST /audit/checkpoint/cosignatures`: cosignatures of witnesses. The signatures are the witnesses' credentials.
pub(super) async fn cosign(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let take = async || {
        let body = params::body(payload, app.config.limits.max_body_bytes).await?;
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain") {
            return Err(Error::Refused(Refusal::Malformed("The body must be text/plain")));
        }
        let note =
            std::str::from_utf8(&body).map_err(|_| Refusal::Malformed("The body is not valid UTF-8"))?;
        let origin = credentials::origin(&request);
        let added = cosignatures::cosign(&app, note, origin, app.clock.now()).await?;
        Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(Cosigned { added }))
    };
    to_response(take().await)
}
