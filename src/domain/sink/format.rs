//! What a sink receives: the format of events, and how many events a request has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::audit::findings;
use crate::platform::fault::Fault;
use actchain_protocol::ocsf::LogSource;
use actchain_protocol::{cef, ocsf};

/// Format of the events that a sink receives.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum SinkFormat {
    /// The event's document as recorded; a batch is a JSON array of documents.
    Json,
    /// The event's document as recorded, on a line of its own.
    Ndjson,
    /// The Open Cybersecurity Schema Framework; a batch is a JSON array.
    Ocsf,
    /// The Common Event Format; each event is a line.
    Cef,
}

impl SinkFormat {
    /// Its name, as stored and shown.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Reads a stored name.
    pub fn parse(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::Ocsf => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Cef => cef::MEDIA_TYPE,
        }
    }

    /// The text of one event, which is also the body of a request that is not a batch.
    pub fn event(self, event: &Value, source: LogSource<'_>) -> Result<String, Fault> {
        let severity = findings::severity(event);
        Ok(match self {
            Self::Json => source.document.to_owned(),
            Self::Ndjson => format!("{}\n", source.document),
            Self::Ocsf => ocsf::event(event, severity, source)?.to_string(),
            Self::Cef => cef::line(event, severity),
        })
    }

    /// The body of a batch, from the texts of its events.
    pub fn batch(self, events: &[String]) -> String {
        match self {
            Self::Json | Self::Ocsf => format!("[{}]", events.join(",")),
            Self::Ndjson => events.concat(),
            Self::Cef => events.join("\n"),
        }
    }
}

/// Limits of one request to a sink that accepts batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SinkBatch")]
pub struct BatchLimits {
    /// Maximum number of events.
    #[schemars(range(min = 1, max = 1000), example = 100)]
    pub max_events: u32,
    /// Maximum size of the events, in bytes. An event that is longer is sent alone.
    #[serde(default = "one_mebibyte")]
    #[schemars(range(min = 1024, max = 10_485_760))]
    pub max_bytes: u32,
}

fn one_mebibyte() -> u32 {
    1 << 20
}

impl BatchLimits {
    /// Whether both limits are within their bounds.
    pub fn is_allowed(self) -> bool {
        (1..=1_000).contains(&self.max_events) && (1_024..=10 << 20).contains(&self.max_bytes)
    }
}
