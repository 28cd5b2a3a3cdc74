//! Sends a request with a stored credential that the client never sees. The request is recorded before it is sent;
//! the result is recorded afterwards.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::agent_token;
use super::purpose::{RecordedPurpose, RetrievalPurpose};
use super::refresh;
use crate::app::App;
use crate::domain::audit::detail::{CallEnd, ProxiedRequest};
use crate::domain::audit::{Event, EventKind, PersonalText};
use crate::domain::ledger::{Entry, Guards, Write};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::Credential;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::target::ProxyTarget;
use crate::platform::fault::Fault;
use crate::platform::outbound::{self, Bytes, Chunks, ForwardedField, UpstreamError};
use crate::services::access_token_auth::PresentedAccessToken;
use actchain_protocol::{hop_by_hop, oauth_client};

/// Secrets shorter than this, in bytes, are too likely to occur by chance.
const SHORTEST_TO_FIND: usize = 6;

/// A request to be forwarded.
pub struct ProxyRequest<'a> {
    /// The connection whose credential goes with it.
    pub connection: &'a str,
    pub target: ProxyTarget<'a>,
    pub fields: Vec<ForwardedField>,
    /// Length of the body in bytes, where the request declares a length.
    pub length: Option<u64>,
    /// The body, if the request has a body.
    pub body: Option<Chunks>,
}

/// The response of the upstream host.
pub struct ProxyResponse {
    pub status: u16,
    pub fields: Vec<ForwardedField>,
    /// Length of the body in bytes, where known.
    pub length: Option<u64>,
    pub body: Chunks,
}

/// Adds the credential of a connection to a request, forwards the request and returns the response.
///
/// # Errors
/// A refusal, recorded if the token's delegation is known.
pub async fn call(
    app: &Arc<App>,
    presented: &PresentedAccessToken,
    onward: ProxyRequest<'_>,
    now: OffsetDateTime,
) -> Result<ProxyResponse, Error> {
    let settings = &app.config.vault;
    if onward.length.is_some_and(|length| length > settings.proxy_max_request_bytes) {
        return Err(Refusal::TooLarge.into());
    }
    let mut context = agent_token::authenticate(app, presented, now).await?;
    let target = onward.target;
    let recorded = ProxiedRequest { method: target.method.to_owned(), host: target.host_name().to_owned() };
    context.event.add_text(PersonalText::Path, Some(target.template()));
    context.recorded = RecordedPurpose::Proxy(recorded.clone());
    let opened = context.retrieve(app, onward.connection, RetrievalPurpose::Proxy(&target)).await?;
    let placement = &opened.provider.provider.settings.placement;
    // The same on which it was decided.
    let url = target.url(placement).ok_or(Refusal::ProxyForbidden)?;
    let credential = credential(&opened);

    let mut report = CallReport::of(app, context.event, recorded);
    let overflow = Arc::new(AtomicBool::new(false));
    let mut fields = hop_by_hop::onward(onward.fields, &placement.header, &placement.request_headers);
    fields.extend(onward.length.map(|length| ("content-length".to_owned(), length.to_string().into_bytes())));
    // RFC 9110 §7.6.3.
    fields.push(("via".to_owned(), b"1.1 actchain".to_vec()));
    let body =
        onward.body.map(|chunks| bounded(chunks, settings.proxy_max_request_bytes, Arc::clone(&overflow)));
    let request = outbound::UpstreamRequest {
        method: target.method,
        url: url.clone(),
        fields,
        secret: (&placement.header, field(&placement.scheme, &credential)),
        body,
        patience: Duration::from_secs(settings.proxy_timeout.into()),
    };
    let answered = match app.vault.outbound.forward(request).await {
        Ok(answered) => answered,
        Err(_) if overflow.load(Ordering::Relaxed) => return Err(report.failed(Refusal::TooLarge)),
        Err(UpstreamError::Late(fault)) => {
            tracing::warn!(error = %fault, "an answer through the proxy is late");
            return Err(report.failed(Refusal::ProxyTimeout));
        }
        Err(UpstreamError::Failed(fault)) => {
            tracing::warn!(error = %fault, "there is no answer through the proxy");
            return Err(report.failed(Refusal::ProxyFailed));
        }
    };
    report.status = Some(answered.status);
    // RFC 6750 §3.1: the access token is expired, revoked or otherwise invalid.
    if answered.status == 401
        && let Err(fault) = refresh::reject(app, &opened.connection, app.clock.now()).await
    {
        tracing::error!(error = %fault, "a rejected access token was not marked");
    }
    let bodiless = target.method == "HEAD" || matches!(answered.status, 204 | 304);
    if !bodiless && answered.length.is_some_and(|length| length > settings.proxy_max_response_bytes) {
        return Err(report.failed(Refusal::ProxyFailed));
    }
    let body: Chunks = if bodiless {
        report.ended = Ended::Answered(CallEnd::Complete);
        Box::pin(stream::empty())
    } else {
        Box::pin(Watched { chunks: answered.body, most: settings.proxy_max_response_bytes, report })
    };
    let secrets = secrets(&opened, &credential);
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.as_str()).collect();
    Ok(ProxyResponse {
        status: answered.status,
        fields: hop_by_hop::back(answered.fields, &url, &secrets),
        length: answered.length,
        body,
    })
}

/// The credential as the value of a header field, without its scheme.
fn credential(opened: &OpenedConnection) -> Zeroizing<String> {
    match &opened.credential {
        Credential::Oauth2(tokens) => Zeroizing::new(tokens.access_token.expose_secret().to_owned()),
        Credential::ApiKey { key } => Zeroizing::new(key.expose_secret().to_owned()),
        Credential::Basic { username, password } => oauth_client::pair(username, password.expose_secret()),
    }
}

fn field(scheme: &str, credential: &str) -> Zeroizing<String> {
    let mut field = Zeroizing::new(String::with_capacity(scheme.len() + 1 + credential.len()));
    if !scheme.is_empty() {
        field.push_str(scheme);
        field.push(' ');
    }
    field.push_str(credential);
    field
}

/// Secrets that are removed from the response.
fn secrets(opened: &OpenedConnection, credential: &Zeroizing<String>) -> Vec<Zeroizing<String>> {
    let password = match &opened.credential {
        Credential::Basic { password, .. } => Some(Zeroizing::new(password.expose_secret().to_owned())),
        Credential::Oauth2(_) | Credential::ApiKey { .. } => None,
    };
    let all = password.into_iter().chain([credential.clone()]);
    all.filter(|secret| secret.len() >= SHORTEST_TO_FIND).collect()
}

/// A body that ends in an error where it exceeds the limit, so that the receiver does not take a part for the whole.
/// (The sender detects a body shorter than declared.)
fn bounded(chunks: Chunks, most: u64, overflow: Arc<AtomicBool>) -> Chunks {
    let mut count = 0_u64;
    Box::pin(chunks.map(move |chunk| {
        let chunk = chunk?;
        count = count.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if count > most {
            overflow.store(true, Ordering::Relaxed);
            return Err(Fault::new("a body that is too large"));
        }
        Ok(chunk)
    }))
}

/// The response body: cut off at the limit, and reported when it ends.
struct Watched {
    chunks: Chunks,
    most: u64,
    report: CallReport,
}

impl Stream for Watched {
    type Item = Result<Bytes, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.report.ended == Ended::Answered(CallEnd::Cut) {
            return Poll::Ready(None);
        }
        let chunk = std::task::ready!(self.chunks.as_mut().poll_next(context));
        Poll::Ready(match chunk {
            None => {
                self.report.ended = Ended::Answered(CallEnd::Complete);
                None
            }
            Some(Err(fault)) => {
                self.report.ended = Ended::Answered(CallEnd::Cut);
                Some(Err(fault))
            }
            Some(Ok(chunk)) => {
                let bytes = self.report.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                if bytes > self.most {
                    self.report.ended = Ended::Answered(CallEnd::Cut);
                    return Poll::Ready(Some(Err(Fault::new("an answer that is too large"))));
                }
                self.report.bytes = bytes;
                Some(Ok(chunk))
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Answered(CallEnd),
    /// There was no response to forward.
    Failed(Refusal),
}

/// Records the result of a proxied request when dropped.
struct CallReport {
    app: Arc<App>,
    event: Event,
    request: ProxiedRequest,
    status: Option<u16>,
    bytes: u64,
    ended: Ended,
}

impl CallReport {
    /// The report of a request about to be sent.
    fn of(app: &Arc<App>, event: Event, request: ProxiedRequest) -> Self {
        let ended = Ended::Answered(CallEnd::Cancelled);
        Self { app: Arc::clone(app), event, request, status: None, bytes: 0, ended }
    }

    fn failed(mut self, refusal: Refusal) -> Error {
        self.ended = Ended::Failed(refusal);
        refusal.into()
    }
}

impl Drop for CallReport {
    fn drop(&mut self) {
        let now = self.app.clock.now();
        let (request, status, bytes) = (self.request.clone(), self.status, self.bytes);
        let (kind, reason) = match self.ended {
            Ended::Answered(ended) => (EventKind::VaultProxyAnswered { request, status, bytes, ended }, None),
            Ended::Failed(refusal) => {
                (EventKind::VaultProxyFailed { request, status }, Some(refusal.reason()))
            }
        };
        let event = Event { at: now, kind, reason, ..self.event.clone() };
        let (write, guards) = (Write::Nothing, Guards::default());
        let entry =
            Entry { now, single_use_ids: Vec::new(), guards, write, event: Some(event), session: None };
        let app = Arc::clone(&self.app);
        // The request itself is recorded already; no response waits for this entry.
        drop(self.app.detached.spawn(async move {
            if let Err(problem) = app.ledger.record(entry).await {
                tracing::error!(?problem, "what became of a call through the proxy was not recorded");
            }
        }));
    }
}
