//! A manifest as the body of a request.

use std::collections::BTreeSet;

use super::error::ApplyError;
use super::plan::{ApplyOutcome, Mode};
use super::{ApplyRequest, apply};
use crate::domain::audit::Operation;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Context as _;
use crate::platform::yaml::InvalidDeclaration;
use crate::services::manifest::{Manifest, read_all};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, Reply, Target};

/// The name of the manifest in errors.
const ORIGIN: &str = "manifest";

/// The format of a submitted manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestFormat {
    Yaml,
    Json,
}

/// A manifest of a request, with options.
#[derive(Debug)]
pub struct SubmittedManifest {
    pub text: Vec<u8>,
    pub format: ManifestFormat,
    pub mode: Mode,
    /// Ids of clients that may lose their kind or their credentials.
    pub replace: BTreeSet<String>,
    /// The versions on which the manifest may be applied; any version where absent.
    pub expected: Option<BTreeSet<String>>,
}

/// Applies a manifest as a request to the management API. A refusal is an event.
///
/// # Errors
/// A refusal with the place and the reason of the first error, or a fault; nothing is changed then.
pub async fn apply_submitted(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    submitted: SubmittedManifest,
) -> Result<Reply<ApplyOutcome>, ApplyError> {
    let mut detail = None;
    let applying = async {
        let done = try_to_apply(ctx, vault, submitted).await;
        done.map_err(|error| {
            detail = error.detail;
            error.stop
        })
    };
    let attempt = Attempt { operation: Operation::ApplyManifest, target: Target::Unnamed };
    let done = ctx.attempt(attempt, applying).await;
    done.map_err(|stop| ApplyError { stop, detail })
}

/// Plans a manifest for an administrator: nothing is changed, and a refusal is no event.
///
/// # Errors
/// A refusal with the place and the reason of the first error, or a fault.
pub async fn plan_only(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    text: Vec<u8>,
) -> Result<ApplyOutcome, ApplyError> {
    let format = ManifestFormat::Yaml;
    let submitted =
        SubmittedManifest { text, format, mode: Mode::DryRun, replace: BTreeSet::new(), expected: None };
    Ok(try_to_apply(ctx, vault, submitted).await?.value)
}

async fn try_to_apply(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    submitted: SubmittedManifest,
) -> Result<Reply<ApplyOutcome>, ApplyError> {
    ctx.caller.require_administrator()?;
    let SubmittedManifest { text, format, mode, replace, expected } = submitted;
    let reading = tokio::task::spawn_blocking(move || read(text, format));
    let manifest = reading.await.context("reading a manifest")??;
    manifest.require_no_files()?;
    apply(ctx, Some(vault), ApplyRequest { manifest, mode, replace, expected }).await
}

/// JSON is read as YAML, of which it is a part, so that errors name line and column.
fn read(text: Vec<u8>, format: ManifestFormat) -> Result<Manifest, InvalidDeclaration> {
    let text = String::from_utf8(text).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        InvalidDeclaration::new(format!("{ORIGIN}:{line}: the text is not UTF-8"))
    })?;
    if format == ManifestFormat::Json {
        serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| {
            let what = if error.is_eof() { "the text ends too early" } else { "this is not JSON" };
            InvalidDeclaration::new(format!("{ORIGIN}:{}:{}: {what}", error.line(), error.column()))
        })?;
    }
    read_all(&[(ORIGIN.to_owned(), text)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_utf_8_is_refused_with_its_line() {
        let error = read(b"clients: []\n# \xff".to_vec(), ManifestFormat::Yaml).unwrap_err();
        assert_eq!(error.to_string(), "manifest:2: the text is not UTF-8");
    }
}
