//! `openapi.yaml` as a contract: checks responses, requests and tokens of a real server against the description, and
//! records which described responses were seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use actchain_protocol::base64url;
use serde_json::{Map, Value, json};

use super::{Answer, claims_of};

/// Headers with a meaning for callers: a response header must be described. CORS headers are described once for all
/// responses.
const TELLING: [&str; 13] = [
    "allow",
    "cache-control",
    "dpop-nonce",
    "etag",
    "idempotent-replayed",
    "location",
    "pragma",
    "retry-after",
    "set-cookie",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-request-id",
];
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// A described response: method, path, status.
pub type Described = (String, String, u16);

/// The description, and the responses seen so far.
pub struct Contract {
    pub document: Value,
    seen: Mutex<BTreeSet<Described>>,
    validators: Mutex<HashMap<String, Arc<jsonschema::Validator>>>,
}

impl Contract {
    pub fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
        let options = serde_saphyr::options! { strict_booleans: true };
        let text = std::fs::read_to_string(path).unwrap();
        let document = serde_saphyr::from_str_with_options(&text, options).unwrap();
        Self { document, seen: Mutex::default(), validators: Mutex::default() }
    }

    /// Every operation: method, path and description.
    pub fn operations(&self) -> Vec<(String, String, &Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &'_ Value)| -> Vec<(String, String)> {
            let described = item.as_object().unwrap().keys().filter(|key| METHODS.contains(&key.as_str()));
            described.map(|method| (method.to_uppercase(), path.clone())).collect()
        };
        let named = paths.iter().flat_map(of_path);
        named
            .map(|(method, path)| {
                let operation = &self.document["paths"][&path][method.to_lowercase()];
                (method, path, operation)
            })
            .collect()
    }

    /// Every described response.
    pub fn described(&self) -> BTreeSet<Described> {
        let mut all = BTreeSet::new();
        for (method, path, operation) in self.operations() {
            let statuses = operation["responses"].as_object().unwrap().keys();
            // `default` has no status code.
            let statuses = statuses.filter(|status| *status != "default");
            all.extend(statuses.map(|status| (method.clone(), path.clone(), status.parse().unwrap())));
        }
        all
    }

    /// The described responses that were seen.
    pub fn seen(&self) -> BTreeSet<Described> {
        self.seen.lock().unwrap().clone()
    }

    /// The path template of a real path; a literal template wins over a template with parameters.
    fn template(&self, path: &str) -> String {
        let path = path.split('?').next().unwrap();
        let fits = |template: &&String| {
            template.split('/').count() == path.split('/').count()
                && template
                    .split('/')
                    .zip(path.split('/'))
                    .all(|(wanted, found)| wanted == found || wanted.starts_with('{'))
        };
        let paths = self.document["paths"].as_object().unwrap().keys();
        let found = paths.filter(fits).min_by_key(|template| template.matches('{').count());
        found.unwrap_or_else(|| panic!("{path} is not described")).clone()
    }

    /// Resolves a `$ref`; members beside the reference are merged.
    pub fn resolved(&self, node: &Value) -> Value {
        let Some(reference) = node["$ref"].as_str() else { return node.clone() };
        let target = self.document.pointer(reference.strip_prefix('#').unwrap());
        let mut resolved = target.unwrap_or_else(|| panic!("{reference} leads nowhere")).clone();
        for (name, value) in node.as_object().unwrap().iter().filter(|(name, _)| *name != "$ref") {
            resolved[name] = value.clone();
        }
        resolved
    }

    fn validator(&self, schema: &Value) -> Arc<jsonschema::Validator> {
        let mut validators = self.validators.lock().unwrap();
        let made = validators.entry(schema.to_string()).or_insert_with(|| {
            let mut whole = json!({"components": {"schemas": self.document["components"]["schemas"]}});
            whole.as_object_mut().unwrap().insert("allOf".into(), json!([schema]));
            let options = jsonschema::options()
                .with_draft(jsonschema::Draft::Draft202012)
                .should_validate_formats(true);
            Arc::new(options.build(&whole).unwrap())
        });
        Arc::clone(made)
    }

    /// The errors of a value by a schema.
    pub fn problems(&self, schema: &Value, value: &Value) -> Vec<String> {
        let validator = self.validator(schema);
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    pub fn schema(&self, name: &str) -> Value {
        assert!(!self.document["components"]["schemas"][name].is_null(), "{name} is described");
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    #[track_caller]
    fn assert_fits(&self, what: &str, schema: &Value, value: &Value) {
        let problems = self.problems(schema, value);
        assert!(problems.is_empty(), "{what}: {problems:#?} in {value:#}");
    }

    /// Checks a response against its description: status, headers, media type, body, and the tokens in it.
    #[track_caller]
    pub fn hold(&self, method: &str, path: &str, answer: &Answer) {
        let template = self.template(path);
        let what = format!("{method} {template} {}: {}", answer.status, answer.text);
        let operation = &self.document["paths"][&template][method.to_lowercase()];
        // An undescribed method has the same response at every path.
        let operation = match operation {
            Value::Null if answer.status == 405 => {
                let item = self.document["paths"][&template].as_object().unwrap();
                item.iter().find(|(name, _)| METHODS.contains(&name.as_str())).unwrap().1
            }
            operation => operation,
        };
        let response = &operation["responses"][answer.status.to_string()];
        assert!(response.is_object(), "{what} is not described");
        let response = self.resolved(response);
        self.hold_headers(&what, &response, answer);
        self.hold_body(&what, &response, answer);
        if answer.status >= 400 && answer.json["reason"].is_string() {
            self.hold_reason(&what, &response, answer);
        }
        // The vault returns tokens of third parties.
        if let Some(token) =
            answer.json["access_token"].as_str().filter(|_| answer.json.get("connection").is_none())
        {
            self.assert_fits(&what, &self.schema("AccessTokenJwt"), &decoded(token));
        }
        let methods =
            if answer.status == 405 { self.hold_allow(&template, answer) } else { vec![method.to_owned()] };
        let mut seen = self.seen.lock().unwrap();
        seen.extend(methods.into_iter().map(|method| (method, template.clone(), answer.status)));
    }

    #[track_caller]
    fn hold_headers(&self, what: &str, response: &Value, answer: &Answer) {
        let none = Map::new();
        let headers = response["headers"].as_object().unwrap_or(&none);
        let described: BTreeMap<String, Value> =
            headers.iter().map(|(name, header)| (name.to_lowercase(), self.resolved(header))).collect();
        for name in TELLING.iter().filter(|name| answer.headers.contains_key(**name)) {
            assert!(described.contains_key(*name), "{what}: {name} is not described");
        }
        for (name, header) in described {
            let values: Vec<&str> =
                answer.headers.get_all(&name).iter().map(|one| one.to_str().unwrap()).collect();
            assert!(!values.is_empty() || header["required"] != true, "{what}: {name} is missing");
            for value in values {
                let value = match header["schema"]["type"] == "integer" {
                    true => json!(value.parse::<i64>().unwrap()),
                    false => json!(value),
                };
                self.assert_fits(&format!("{what}: {name}"), &header["schema"], &value);
            }
        }
    }

    #[track_caller]
    fn hold_body(&self, what: &str, response: &Value, answer: &Answer) {
        let Some(content) = response["content"].as_object() else {
            assert_eq!(answer.text, "", "{what}: no body is described");
            return;
        };
        let kind = answer.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap().trim();
        let schema =
            &content.get(kind).unwrap_or_else(|| panic!("{what}: {kind} is not described"))["schema"];
        if kind.ends_with("json") {
            self.assert_fits(what, schema, &serde_json::from_str(&answer.text).unwrap());
        } else if kind.ends_with("+jwt") {
            self.assert_fits(what, &schema["contentSchema"], &decoded(&answer.text));
        } else {
            self.assert_fits(what, schema, &json!(answer.text));
        }
    }

    /// The reason of a problem must be in the description of this response, and in the table of reasons under its
    /// status or error.
    #[track_caller]
    fn hold_reason(&self, what: &str, response: &Value, answer: &Answer) {
        let reason = answer.reason();
        let under = match answer.json["error"].as_str() {
            Some(error) => format!("`{error}`"),
            None => {
                let described = response["description"].as_str().unwrap();
                assert!(described.contains(&format!("`{reason}`")), "{what}: it is not named in {described}");
                assert_eq!(answer.json["type"], format!("urn:actchain:problem:{reason}"), "{what}");
                assert_eq!(answer.json["status"], answer.status, "{what}");
                answer.status.to_string()
            }
        };
        let listed = self.reasons().get(&under).is_some_and(|reasons| reasons.contains(reason));
        assert!(listed, "{what}: {reason} is not listed under {under}");
    }

    /// The tables in the description of `Reason`: by `error`, in backticks, and by status.
    pub fn reasons(&self) -> BTreeMap<String, BTreeSet<String>> {
        let text = self.document["components"]["schemas"]["Reason"]["description"].as_str().unwrap();
        let rows = text
            .lines()
            .filter(|line| line.starts_with("| ") && line.contains(" | `") && !line.contains("`reason`"));
        let row = |line: &str| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let reasons = cells[1].split(", ").map(|reason| reason.trim_matches('`').to_owned());
            (cells[0].to_owned(), reasons.collect())
        };
        rows.map(row).collect()
    }

    /// `Allow` lists the described methods; all described paths return it for other methods.
    #[track_caller]
    fn hold_allow(&self, template: &str, answer: &Answer) -> Vec<String> {
        let operations = self.operations();
        let described =
            operations.iter().filter(|(_, path, _)| path == template).map(|(method, ..)| method.clone());
        let described: Vec<String> = described.collect();
        let allowed: BTreeSet<&str> = answer.header("allow").unwrap().split(", ").collect();
        assert_eq!(allowed, described.iter().map(String::as_str).collect(), "{template}");
        described
    }

    /// Checks a request that was carried out against its description: query and body.
    #[track_caller]
    pub fn hold_request(&self, method: &str, path: &str, body: Option<&Value>) {
        let template = self.template(path);
        let operation = &self.document["paths"][&template][method.to_lowercase()];
        let none = Vec::new();
        let parameters: Vec<Value> = operation["parameters"]
            .as_array()
            .unwrap_or(&none)
            .iter()
            .map(|parameter| self.resolved(parameter))
            .collect();
        let query = path.split_once('?').map(|(_, query)| query).unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let described = parameters.iter().find(|one| one["in"] == "query" && one["name"] == *name);
            let schema =
                &described.unwrap_or_else(|| panic!("{method} {path}: {name} is not described"))["schema"];
            let value = match schema["type"].as_str() {
                Some("integer") => json!(value.parse::<i64>().unwrap()),
                Some("boolean") => json!(value.parse::<bool>().unwrap()),
                _ => json!(value),
            };
            self.assert_fits(&format!("{method} {path}: {name}"), schema, &value);
        }
        for (place, segment) in template.split('/').zip(path.split('?').next().unwrap().split('/')) {
            let Some(name) = place.strip_prefix('{').and_then(|place| place.strip_suffix('}')) else {
                continue;
            };
            let described = parameters.iter().find(|one| one["in"] == "path" && one["name"] == name);
            let schema =
                &described.unwrap_or_else(|| panic!("{method} {path}: {name} is not described"))["schema"];
            let value = percent_encoding_free(segment);
            self.assert_fits(&format!("{method} {path}: {name}"), schema, &json!(value));
        }
        let Some(body) = body else {
            assert!(
                operation["requestBody"]["required"] != true,
                "{method} {path}: a body is described as required"
            );
            return;
        };
        let content = operation["requestBody"]["content"].as_object();
        let content = content.unwrap_or_else(|| panic!("{method} {path}: no body is described"));
        self.assert_fits(&format!("{method} {path}"), &content.values().next().unwrap()["schema"], body);
    }
}

/// Ids in tests contain only characters that need no escape.
fn percent_encoding_free(segment: &str) -> &str {
    assert!(!segment.contains('%'), "{segment}");
    segment
}

/// Header and claims of a JWT.
pub fn decoded(token: &str) -> Value {
    let header = base64url::decode(token.split('.').next().unwrap()).unwrap();
    json!([serde_json::from_slice::<Value>(&header).unwrap(), claims_of(token)])
}

/// The parameters of a form as an object, as in the description.
pub fn form(params: &[(String, String)]) -> Value {
    let mut object = Map::new();
    for (name, value) in params {
        if ["audience", "resource"].contains(&name.as_str()) {
            let list = object.entry(name.as_str()).or_insert_with(|| json!([]));
            list.as_array_mut().unwrap().push(json!(value));
        } else {
            object.insert(name.clone(), json!(value));
        }
    }
    Value::Object(object)
}
