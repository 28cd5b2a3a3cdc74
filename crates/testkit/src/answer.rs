//! A response, and the form that refusals have.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

/// A response that was read.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// Null if the body is no JSON.
    pub json: Value,
}

impl Answer {
    pub async fn read(response: reqwest::Response) -> Self {
        Self::of(response).await.unwrap()
    }

    pub(crate) async fn of(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or_default();
        Ok(Self { status, headers, text, json })
    }

    pub fn error(&self) -> &str {
        self.json["error"].as_str().unwrap_or_default()
    }

    pub fn reason(&self) -> &str {
        self.json["reason"].as_str().unwrap_or_default()
    }

    pub fn token(&self) -> &str {
        self.json["access_token"].as_str().unwrap_or_else(|| panic!("no token in {}", self.text))
    }

    /// The claims of the token, without verification.
    pub fn claims(&self) -> Value {
        claims_of(self.token())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    #[track_caller]
    pub fn assert_refused(&self, status: u16, error: &str, reason: &str) {
        assert_eq!((self.status, self.error(), self.reason()), (status, error, reason), "{}", self.text);
    }

    /// A problem (RFC 9457) with its stable members, and with challenges if a token would help.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, reason: &str) -> &Self {
        assert_eq!((self.status, self.reason()), (status, reason), "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.json["type"], format!("urn:actchain:problem:{reason}"));
        assert_eq!(self.json["status"], status);
        assert!(!self.json["title"].as_str().unwrap().is_empty());
        let challenges: Vec<_> =
            self.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        if matches!(status, 401 | 403) {
            let of = |scheme: &str| challenges.iter().filter(|text| text.starts_with(scheme)).count();
            assert_eq!((of("DPoP "), of("Bearer"), challenges.len()), (1, 1, 2), "{challenges:?}");
            assert!(challenges.iter().any(|text| text.contains("algs=\"") && text.contains("ES256")));
        } else {
            assert!(challenges.is_empty(), "{challenges:?}");
        }
        self
    }

    /// The current state forbids the operation.
    #[track_caller]
    pub fn assert_conflict(&self, reason: &str, state: &str) {
        self.assert_problem(409, reason);
        assert_eq!(self.json["state"], state, "{}", self.text);
    }

    /// The limit exceeds the parent's, in the member that the response points to.
    #[track_caller]
    pub fn assert_too_wide(&self, member: &str) {
        self.assert_problem(400, "exceeds_parent");
        let errors = self.json["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{}", self.text);
        assert_eq!(errors[0]["pointer"], format!("#/{member}"), "{}", self.text);
        assert!(errors[0]["detail"].is_string());
    }

    /// A name that no resource declares, at the place that the response points to.
    #[track_caller]
    pub fn assert_undeclared(&self, reason: &str, pointer: &str) {
        self.assert_problem(400, reason);
        assert_eq!(self.json["errors"][0]["pointer"], pointer, "{}", self.text);
    }

    /// The lifetime exceeded the maximum and was shortened to this end.
    #[track_caller]
    pub fn assert_shortened(&self, until: i64) {
        assert!(matches!(self.status, 200 | 201), "{}", self.text);
        let due = (&json!(instant(until)), &json!(true));
        assert_eq!((&self.json["expires_at"], &self.json["shortened"]), due, "{}", self.text);
    }

    /// Checks the status of the response.
    #[track_caller]
    pub fn with_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// The id of the created object.
    #[track_caller]
    pub fn id(&self) -> String {
        self.json["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.text)).to_owned()
    }
}

/// The claims of a JWT, without verification.
pub fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&actchain_protocol::base64url::decode(payload).unwrap()).unwrap()
}

/// An instant in the format of responses.
pub fn instant(seconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000000Z");
    OffsetDateTime::from_unix_timestamp(seconds).unwrap().format(format).unwrap()
}
