//! Reads the response of an authorization server's token endpoint (RFC 6749 §5) member by member: an invalid member
//! does not affect the others. A refresh token can be single-use, so a successful response is never discarded for its
//! form.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::oauth_client::{is_error_code, is_token, scopes};
use super::scope;

/// Issued tokens (RFC 6749 §5.1); at least one of the two is present.
#[derive(Debug)]
pub struct TokenSet {
    /// The access token, if it can be sent in a header field.
    pub access_token: Option<SecretString>,
    /// The token type, as the server writes it; `Bearer` if absent.
    pub token_type: String,
    /// `issued_token_type` (RFC 8693 §2.2.1), if it is present.
    pub issued_token_type: Option<String>,
    /// Seconds, if the server sends a number of at least one.
    pub expires_in: Option<u32>,
    /// The refresh token, if any; replaces an earlier refresh token.
    pub refresh_token: Option<SecretString>,
    /// What the response says about the granted scopes.
    pub scope: Scope,
}

/// The scopes of the response.
#[derive(Debug, PartialEq, Eq)]
pub enum Scope {
    /// `scope` is absent: the scopes are those requested (RFC 6749 §5.1).
    Unsaid,
    /// `scope` is empty or not a list of scopes: the scopes are unknown.
    Unknown,
    /// The scopes, at least one.
    Known(BTreeSet<String>),
}

/// A response of another server's token endpoint.
#[derive(Debug)]
pub enum TokenResponse {
    /// A successful response (RFC 6749 §5.1).
    Tokens(TokenSet),
    /// An error code of RFC 6749 §5.2, or the code that the server sends in its place.
    Refused(String),
    /// A success without tokens: the effect of the request at the server is unknown.
    Empty,
    /// A response of any other form.
    Unusable,
}

/// Longest accepted token, in bytes.
const MOST_TOKEN: usize = 64 * 1024;

/// Whether the whole response arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The response has its announced length, or ended properly.
    Whole,
    /// The end of the response is missing.
    Truncated,
}

/// Reads a response, as far as it arrived. Some servers send an error with status 200, some encode tokens as a form.
pub fn read(status: u16, body: &[u8], extent: Extent) -> TokenResponse {
    let success = (200..300).contains(&status);
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    let members = match extent {
        // The last parameter of a form may be an incomplete token. In JSON, the end of a member is visible.
        Extent::Truncated if !text.starts_with('{') => {
            Members::read(text.rsplit_once('&').map_or("", |(whole, _)| whole))
        }
        Extent::Truncated | Extent::Whole => Members::read(text),
    };
    if success && let Some(tokens) = members.tokens() {
        return TokenResponse::Tokens(tokens);
    }
    let code = if success {
        members.text("error")
    } else if (400..500).contains(&status) {
        members.error_code()
    } else {
        None
    };
    match code.filter(|code| is_error_code(code)) {
        Some(code) => TokenResponse::Refused(code),
        None if success => TokenResponse::Empty,
        None => TokenResponse::Unusable,
    }
}

/// The error code of a response of another OAuth endpoint (RFC 7009 §2.2.1), whatever its status. An object with
/// `"ok": false` is an error too.
pub fn refusal(status: u16, body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let members = Members::read(text.trim_start_matches('\u{feff}').trim());
    let code = if (200..300).contains(&status) { members.text("error") } else { members.error_code() };
    let not_ok = members.json.get("ok") == Some(&"false");
    code.filter(|code| is_error_code(code)).or_else(|| not_ok.then(|| "not_ok".to_owned()))
}

/// The members of an object by name, as written: JSON text, or a form parameter.
#[derive(Default)]
struct Members<'a> {
    json: BTreeMap<String, &'a str>,
    form: BTreeMap<String, SecretString>,
}

impl<'a> Members<'a> {
    fn read(text: &'a str) -> Self {
        let mut members = Self::default();
        if text.starts_with('{') {
            // The members before an error, such as the end of a truncated response, are collected.
            let _ = serde_json::Deserializer::from_str(text).deserialize_map(Collect(&mut members.json));
        } else if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let pairs = url::form_urlencoded::parse(text.as_bytes());
            members.form =
                pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect();
        }
        members
    }

    fn secret(&self, name: &str) -> Option<SecretString> {
        match self.json.get(name) {
            Some(raw) => serde_json::from_str(raw).ok(),
            None => self.form.get(name).cloned(),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.secret(name).map(|text| text.expose_secret().to_owned()).filter(|text| !text.is_empty())
    }

    fn object(&self, name: &str) -> Option<Self> {
        self.json.get(name).map(|raw| Self::read(raw))
    }

    /// Slack puts the token of a user into an object of its own.
    fn tokens(&self) -> Option<TokenSet> {
        self.own_tokens().or_else(|| self.object("authed_user")?.own_tokens())
    }

    fn own_tokens(&self) -> Option<TokenSet> {
        let access_token = self.secret("access_token").filter(is_presentable);
        let refresh_token = self.secret("refresh_token").filter(is_plain);
        if access_token.is_none() && refresh_token.is_none() {
            return None;
        }
        let token_type = self.text("token_type").filter(|name| is_token(name));
        Some(TokenSet {
            access_token,
            token_type: token_type.unwrap_or_else(|| "Bearer".into()),
            issued_token_type: self.text("issued_token_type"),
            expires_in: self.seconds("expires_in"),
            refresh_token,
            scope: self.scope(),
        })
    }

    /// A number, possibly with a fraction and an exponent, or a text that contains such a number.
    fn seconds(&self, name: &str) -> Option<u32> {
        let written = match self.json.get(name) {
            Some(raw) => raw.trim_matches('"').trim().to_owned(),
            None => self.text(name)?,
        };
        let seconds = Duration::try_from_secs_f64(written.parse().ok()?).ok()?.as_secs();
        u32::try_from(seconds).ok().filter(|seconds| (1..=i32::MAX as u32).contains(seconds))
    }

    fn scope(&self) -> Scope {
        let said = match self.json.get("scope") {
            Some(&"null") => return Scope::Unsaid,
            Some(raw) => {
                let list = serde_json::from_str(raw).map(|list: Vec<String>| list.join(" "));
                list.or_else(|_| serde_json::from_str(raw)).ok()
            }
            None if self.form.contains_key("scope") => Some(self.text("scope").unwrap_or_default()),
            None => return Scope::Unsaid,
        };
        let known = said.map(|said: String| scopes(&said)).filter(|known| !known.is_empty());
        match known.filter(|known| known.iter().all(|name| scope::is_token(name))) {
            Some(known) => Scope::Known(known),
            None => Scope::Unknown,
        }
    }

    /// `error`, or a member that other servers use instead: `code`, `status`, `type` or `error_code`, in the object
    /// `error` or at the top level.
    fn error_code(&self) -> Option<String> {
        const NAMES: [&str; 4] = ["code", "status", "type", "error_code"];
        let of = |members: &Self| NAMES.iter().find_map(|name| members.text(name));
        self.text("error").or_else(|| self.object("error").and_then(|error| of(&error))).or_else(|| of(self))
    }
}

/// RFC 6749 appendix A.12.
fn is_presentable(token: &SecretString) -> bool {
    is_plain(token) && token.expose_secret().is_ascii()
}

fn is_plain(token: &SecretString) -> bool {
    let token = token.expose_secret();
    (1..=MOST_TOKEN).contains(&token.len()) && !token.chars().any(char::is_control)
}

/// Collects the members of an object; of repeated names, the last.
struct Collect<'m, 'a>(&'m mut BTreeMap<String, &'a str>);

impl<'a> Visitor<'a> for Collect<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, raw)) = map.next_entry::<String, &'a RawValue>()? {
            self.0.insert(name, raw.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token_set(status: u16, body: &str) -> Option<TokenSet> {
        match read(status, body.as_bytes(), Extent::Whole) {
            TokenResponse::Tokens(tokens) => Some(tokens),
            _ => None,
        }
    }

    fn tokens(status: u16, body: &str) -> (Option<String>, Option<String>) {
        let set = token_set(status, body).unwrap_or_else(|| panic!("nothing in {status} {body}"));
        let text = |token: Option<SecretString>| token.map(|token| token.expose_secret().to_owned());
        (text(set.access_token), text(set.refresh_token))
    }

    fn both() -> (Option<String>, Option<String>) {
        (Some("a".into()), Some("r".into()))
    }

    #[test]
    fn tokens_are_kept_whatever_other_members_say() {
        let odd = ["null", "true", "0", "-1", "1e999", "1.5", r#""""#, r#""\ud800""#, "[]", r#"["x"]"#, "{}"];
        for name in ["token_type", "expires_in", "scope", "error", "ok", "id_token", "authed_user", "x"] {
            for value in odd {
                let before = format!(r#"{{"{name}":{value},"access_token":"a","refresh_token":"r"}}"#);
                let after = format!(r#"{{"access_token":"a","refresh_token":"r","{name}":{value}}}"#);
                assert_eq!((tokens(200, &before), tokens(200, &after)), (both(), both()), "{name} {value}");
            }
        }
        for value in odd {
            let access = format!(r#"{{"access_token":"a","refresh_token":{value}}}"#);
            assert_eq!(tokens(200, &access), (Some("a".into()), None), "{value}");
            let refresh = format!(r#"{{"access_token":{value},"refresh_token":"r"}}"#);
            assert_eq!(tokens(200, &refresh), (None, Some("r".into())), "{value}");
        }
    }

    #[test]
    fn tokens_are_kept_in_whatever_form_they_come() {
        let json = r#"{"access_token":"a","refresh_token":"r"}"#;
        for status in [200, 201, 202, 203, 206] {
            assert_eq!(tokens(status, json), both(), "{status}");
        }
        for body in [
            format!("\u{feff}{json}"),
            format!("\r\n  {json}\r\n"),
            format!("{json}<!-- -->"),
            r#"{"access_token":"a","refresh_token":"r","x":"cut o"#.to_owned(),
            r#"{"access_token":"b","access_token":"a","refresh_token":"r"}"#.to_owned(),
            "access_token=a&refresh_token=r&scope=&token_type=bearer".to_owned(),
            r#"{"ok":true,"authed_user":{"id":"U1","access_token":"a","refresh_token":"r"}}"#.to_owned(),
        ] {
            assert_eq!(tokens(200, &body), both(), "{body}");
        }
        let mut body = br#"{"name":"#.to_vec();
        body.extend(b"\"\xe8\",\"access_token\":\"a\"}");
        assert!(
            matches!(read(200, &body, Extent::Whole), TokenResponse::Tokens(_)),
            "other members in another encoding"
        );
        let long = "x".repeat(13 * 1024);
        let answer = format!(r#"{{"access_token":"{long}","refresh_token":"{long}"}}"#);
        assert_eq!(tokens(200, &answer), (Some(long.clone()), Some(long)));
    }

    #[test]
    fn lifetimes_are_whole_seconds_or_not_said() {
        let life = |written: &str| {
            token_set(200, &format!(r#"{{"access_token":"a","expires_in":{written}}}"#)).unwrap().expires_in
        };
        for (written, seconds) in [
            ("299", 299),
            ("299.5", 299),
            (r#""299""#, 299),
            (r#""299.5""#, 299),
            (r#"" 299 ""#, 299),
            ("3e2", 300),
            ("2.995e2", 299),
            ("2147483647", 2_147_483_647),
        ] {
            assert_eq!(life(written), Some(seconds), "{written}");
        }
        for written in
            ["0", "-1", "0.5", "1e300", "1e999", "2147483648", r#""soon""#, r#""inf""#, r#""NaN""#, "null"]
        {
            assert_eq!(life(written), None, "{written}");
        }
        assert_eq!(token_set(200, "access_token=a&expires_in=299").unwrap().expires_in, Some(299));
        assert_eq!(token_set(200, r#"{"access_token":"a"}"#).unwrap().expires_in, None);
    }

    #[test]
    fn what_is_said_of_scopes_is_a_list_or_unknown() {
        let scope = |written: &str| {
            token_set(200, &format!(r#"{{"access_token":"a","scope":{written}}}"#)).unwrap().scope
        };
        let known = || Scope::Known(BTreeSet::from(["x".to_owned(), "y".to_owned()]));
        for written in [r#""x y""#, r#"" x  y ""#, r#""x,y""#, r#"["x","y"]"#] {
            assert_eq!(scope(written), known(), "{written}");
        }
        for written in [r#""""#, r#"" ""#, "[]", "{}", "7", "true", r#"[1]"#, r#""\u00e9""#] {
            assert_eq!(scope(written), Scope::Unknown, "{written}");
        }
        assert_eq!(scope("null"), Scope::Unsaid);
        assert_eq!(token_set(200, r#"{"access_token":"a"}"#).unwrap().scope, Scope::Unsaid);
        assert_eq!(token_set(200, "access_token=a&scope=").unwrap().scope, Scope::Unknown);
    }

    #[test]
    fn errors_are_distinguished_from_answers_without_content() {
        let code = |status, body: &str| match read(status, body.as_bytes(), Extent::Whole) {
            TokenResponse::Refused(code) => Some(code),
            _ => None,
        };
        for (status, body) in [
            (400, r#"{"error":"invalid_grant"}"#),
            (200, r#"{"ok":false,"error":"invalid_grant"}"#),
            (200, "error=invalid_grant&error_description=x"),
            (403, r#"{"error":{"code":"invalid_grant"}}"#),
            (400, r#"{"status":"invalid_grant","message":"x"}"#),
            (400, r#"{"object":"error","status":400,"code":"invalid_grant"}"#),
        ] {
            assert_eq!(code(status, body).as_deref(), Some("invalid_grant"), "{status} {body}");
        }
        for (status, body) in [
            (503, r#"{"error":"invalid_grant"}"#),
            (302, r#"{"access_token":"a"}"#),
            (500, r#"{"access_token":"a"}"#),
            (400, r#"{"error":{"code":1}}"#),
            (400, r#"{"error":"not a code"}"#),
        ] {
            assert!(
                matches!(read(status, body.as_bytes(), Extent::Whole), TokenResponse::Unusable),
                "{status} {body}"
            );
        }
        for body in [
            "<html>Welcome</html>",
            "",
            "[]",
            "null",
            "{}",
            r#"{"access_token":"a\nb"}"#,
            r#"{"access_token":7}"#,
            r#"{"status":"ok"}"#,
            "access_token=&x=y",
        ] {
            assert!(matches!(read(200, body.as_bytes(), Extent::Whole), TokenResponse::Empty), "{body}");
        }
    }

    #[test]
    fn a_refusal_is_one_whatever_its_status() {
        for (status, body, code) in [
            (200, r#"{"ok":false,"error":"not_authed"}"#, Some("not_authed")),
            (200, r#"{"ok": false}"#, Some("not_ok")),
            (200, r#"{"ok":true,"revoked":true}"#, None),
            (200, r#"{"status":"ok"}"#, None),
            (200, "", None),
            (400, r#"{"error":"invalid_token"}"#, Some("invalid_token")),
            (503, "<html>", None),
        ] {
            assert_eq!(refusal(status, body.as_bytes()).as_deref(), code, "{status} {body}");
        }
    }

    #[test]
    fn a_form_that_is_cut_off_gives_no_part_of_a_token() {
        let cut = "access_token=whole&expires_in=60&refresh_token=a-par";
        let TokenResponse::Tokens(tokens) = read(200, cut.as_bytes(), Extent::Truncated) else {
            panic!("tokens are lost")
        };
        assert_eq!(tokens.access_token.unwrap().expose_secret(), "whole");
        assert!(tokens.refresh_token.is_none());
        assert!(matches!(read(200, b"access_token=a-par", Extent::Truncated), TokenResponse::Empty));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), status in 100u16..600) {
            let _ = read(status, &bytes, Extent::Whole);
            let _ = read(status, &bytes, Extent::Truncated);
        }

        #[test]
        fn what_is_cut_off_never_makes_another_token(at in 0usize..70) {
            let whole = r#"{"access_token":"a-token","refresh_token":"another","scope":"x y"}"#;
            if let TokenResponse::Tokens(tokens) = read(200, &whole.as_bytes()[..at.min(whole.len())], Extent::Truncated) {
                let access = tokens.access_token.map(|token| token.expose_secret().to_owned());
                prop_assert!(access.as_deref() == Some("a-token"));
                prop_assert!(tokens.refresh_token.is_none_or(|token| token.expose_secret() == "another"));
            }
        }
    }
}
