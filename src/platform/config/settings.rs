//! The keys with the values in force, and where each value comes from. A secret is shown as set, never by its value.

use std::collections::BTreeMap;

use serde_json::Value;

use super::keys::{KEYS, Takes};

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub key: &'static str,
    pub value: SettingValue,
    pub source: SettingSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    Unset,
    /// A secret that is set.
    Secret,
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingSource {
    Default,
    /// A file, by its name.
    File(String),
    /// A variable of the environment, by its name.
    Variable(String),
}

/// The keys that a file has.
pub(super) fn in_file(table: &toml::Table, name: &str) -> BTreeMap<&'static str, SettingSource> {
    let has = |key: &str| match key.split_once('.') {
        None => table.contains_key(key),
        Some((section, key)) => {
            table.get(section).and_then(toml::Value::as_table).is_some_and(|inner| inner.contains_key(key))
        }
    };
    let keys = KEYS.iter().map(|(key, _)| *key).filter(|key| has(key));
    keys.map(|key| (key, SettingSource::File(name.to_owned()))).collect()
}

/// All keys, in the order of the reference. `values` is the configuration as JSON, without secrets.
pub(super) fn list(values: &Value, sources: &BTreeMap<&'static str, SettingSource>) -> Vec<Setting> {
    let setting = |(key, takes): &(&'static str, Takes)| {
        let source = sources.get(key).cloned().unwrap_or(SettingSource::Default);
        let value = match takes {
            Takes::Database | Takes::MasterKey if source != SettingSource::Default => SettingValue::Secret,
            Takes::Database | Takes::MasterKey => SettingValue::Unset,
            _ => values
                .pointer(&format!("/{}", key.replace('.', "/")))
                .map_or(SettingValue::Unset, text(*takes)),
        };
        Setting { key, value, source }
    };
    KEYS.iter().map(setting).collect()
}

fn text(takes: Takes) -> impl Fn(&Value) -> SettingValue {
    let unit = match takes {
        Takes::Seconds | Takes::FewSeconds => " s",
        Takes::Duration => " ms",
        _ => "",
    };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    move |value| match value {
        Value::Null => SettingValue::Unset,
        Value::Array(items) if items.is_empty() => SettingValue::Text("none".to_owned()),
        Value::Array(items) => SettingValue::Text(items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => SettingValue::Text(format!("{}{unit}", plain(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::config::Config;

    #[test]
    fn each_key_has_a_value_and_a_source_and_no_secret_is_shown() {
        let file =
            "database_url = \"postgres://u:pass-word@db/a\"\n[tokens]\nmax_ttl = \"5m\"\n[ledger]\nbatch = 9";
        let environment =
            [("ACTCHAIN_LEDGER_BATCH", "7"), ("ACTCHAIN_HTTP_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.1")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let found = Config::parse("a.toml", file, &environment).unwrap().settings().unwrap();
        assert_eq!(found.len(), KEYS.len());
        let of = |key: &str| {
            let setting = found.iter().find(|one| one.key == key).unwrap();
            (setting.value.clone(), setting.source.clone())
        };
        let text = |text: &str| SettingValue::Text(text.to_owned());
        let in_file = SettingSource::File("a.toml".to_owned());
        let by = |name: &str| SettingSource::Variable(name.to_owned());
        assert_eq!(of("database_url"), (SettingValue::Secret, in_file.clone()));
        assert_eq!(of("master_key"), (SettingValue::Unset, SettingSource::Default));
        assert_eq!(of("tokens.max_ttl"), (text("300 s"), in_file));
        assert_eq!(of("ledger.batch"), (text("7"), by("ACTCHAIN_LEDGER_BATCH")));
        assert_eq!(of("ledger.timeout"), (text("1500 ms"), SettingSource::Default));
        assert_eq!(
            of("http.trusted_proxies"),
            (text("10.0.0.0/8, 192.0.2.1/32"), by("ACTCHAIN_HTTP_TRUSTED_PROXIES"))
        );
        assert_eq!(of("issuer"), (text("http://127.0.0.1:8080"), SettingSource::Default));
        assert!(!format!("{found:?}").contains("pass-word"));
        let optional = ["postgres_bin_dir", "master_key", "master_key_file", "previous_master_key_file"];
        let optional =
            [&optional[..], &["outbound.ca_file", "console.enabled", "audit.witness_quorum"]].concat();
        let unset = found.iter().filter(|one| one.value == SettingValue::Unset).map(|one| one.key);
        assert_eq!(unset.collect::<Vec<_>>(), optional, "every other key has a value");
    }
}
