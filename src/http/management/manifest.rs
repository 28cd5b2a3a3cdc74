//! `/api/v1/apply` and `/api/v1/manifest`: the manifest as a request and as an answer.

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, ETAG, VARY};
use actix_web::web::Bytes;
use serde::Deserialize;

use crate::domain::refusal::Refusal;
use crate::http::management::request::{
    HttpError, MANIFEST_YAML, ManagementRequest, manifest_format, ok, replied, serve, serve_manifest,
};
use crate::services::apply::{
    ApplyError, ApplyReport, ManifestFormat, Mode, SubmittedManifest, apply_submitted, export,
};
use crate::services::transition::Reply;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApplyQuery {
    dry_run: bool,
    /// Client ids, separated by commas.
    replace: String,
}

impl From<ApplyError> for HttpError {
    fn from(error: ApplyError) -> Self {
        Self::from(error.stop).with_detail(error.detail)
    }
}

pub(in crate::http) async fn apply(incoming: ManagementRequest) -> HttpResponse {
    serve_manifest(incoming, async |known, text: Bytes| {
        let ApplyQuery { dry_run, replace } = known.query()?;
        let submitted = SubmittedManifest {
            format: manifest_format(known.header(CONTENT_TYPE.as_str())).unwrap_or(ManifestFormat::Json),
            text: text.to_vec(),
            mode: if dry_run { Mode::DryRun } else { Mode::Apply },
            replace: replace.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
            expected: known.header("if-match").map(versions).transpose()?.flatten(),
        };
        let Reply { value, replayed } = apply_submitted(&known.context, &known.app.vault, submitted).await?;
        if !dry_run && !replayed {
            // This server decides by the new registry at once; others read it at their next exchange.
            known.app.refresh_registry().await?;
            known.app.refresh_rules().await?;
        }
        Ok(replied(Reply { value: ApplyReport::from(value), replayed }))
    })
    .await
}

/// The versions in `If-Match` (RFC 9110 §13.1.1); `None` for `*`.
fn versions(field: &str) -> Result<Option<BTreeSet<String>>, Refusal> {
    if field.trim() == "*" {
        return Ok(None);
    }
    let tags = field.split(',').map(|tag| {
        let tag = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        tag.map(str::to_owned).ok_or(Refusal::Malformed("If-Match is the ETag of /api/v1/manifest, or *"))
    });
    tags.collect::<Result<BTreeSet<String>, Refusal>>().map(Some)
}

/// The first format of `Accept` that a manifest has; JSON where there is none.
fn accepted(field: Option<&str>) -> ManifestFormat {
    let types = field.unwrap_or_default().split(',');
    types.filter_map(|one| manifest_format(Some(one.trim()))).next().unwrap_or(ManifestFormat::Json)
}

pub(in crate::http) async fn show(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let exported = export(&known.context).await?;
        let mut response = match accepted(known.header(ACCEPT.as_str())) {
            ManifestFormat::Json => ok(&exported.manifest),
            ManifestFormat::Yaml => {
                let mut response = ok(&());
                response.headers_mut().insert(CONTENT_TYPE, MANIFEST_YAML);
                response.set_body(actix_web::body::BoxBody::new(exported.to_yaml()?))
            }
        };
        let tag = format!("\"{}\"", exported.version);
        if let Ok(tag) = tag.parse() {
            response.headers_mut().insert(ETAG, tag);
        }
        response.headers_mut().insert(VARY, actix_web::http::header::HeaderValue::from_static("accept"));
        Ok(response)
    })
    .await
}
