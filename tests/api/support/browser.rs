//! A browser without scripts: keeps cookies, and sends the forms of the pages that it was shown.

use std::collections::BTreeMap;

use actchain::domain::console::{self, AuthTime, ConsoleRole, ConsoleSession};
use actchain::domain::principal::Principal;
use actchain_protocol::digest::sha256;
use actchain_protocol::{base64url, random};
use actchain_testkit::answer::Answer;
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, SET_COOKIE};

use super::Server;

pub struct Browser<'a> {
    server: &'a Server,
    client: reqwest::Client,
    pub cookies: BTreeMap<String, String>,
}

/// A form as a browser would send it.
#[derive(Debug, Clone)]
pub struct Form {
    pub action: String,
    pub fields: Vec<(String, String)>,
}

impl Form {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(own, _)| own != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(own, _)| own != name);
        self
    }

    pub fn value(&self, name: &str) -> &str {
        &self.fields.iter().find(|(own, _)| own == name).unwrap().1
    }
}

impl<'a> Browser<'a> {
    pub fn new(server: &'a Server) -> Self {
        let redirect = reqwest::redirect::Policy::none();
        let client = reqwest::Client::builder().redirect(redirect).pool_max_idle_per_host(0).build().unwrap();
        Self { server, client, cookies: BTreeMap::new() }
    }

    /// Enters as an operator.
    pub async fn of_operator(server: &'a Server) -> Self {
        let mut browser = Self::new(server);
        let link = link(server).await;
        let entered = browser.post(&link, &[]).await;
        assert_eq!((entered.status, entered.header("location")), (303, Some("/console")), "{}", entered.text);
        browser
    }

    /// A browser with a session of a person in a role.
    pub async fn of(server: &'a Server, role: ConsoleRole, who: Option<&Principal>) -> Self {
        let secret = Self::session(server, role, who).await;
        let mut browser = Self::of_operator(server).await;
        browser.take(&secret);
        browser
    }

    /// Uses another session from now on.
    pub fn take(&mut self, secret: &str) {
        for value in self.cookies.values_mut() {
            secret.clone_into(value);
        }
    }

    /// A new session of a person in a role; the value of its cookie.
    pub async fn session(server: &Server, role: ConsoleRole, who: Option<&Principal>) -> String {
        let now = server.clock.now();
        let secret = random::bytes::<32>().unwrap();
        let session = ConsoleSession {
            id: random::id(now).unwrap(),
            secret_sha256: sha256(&[&secret]),
            role,
            role_by: None,
            who: who.cloned(),
            issuer_subject: who.map(|who| who.sub.clone()),
            issuer_session: None,
            label: None,
            signed_in_at: now,
            authenticated_at: now,
            auth_time: AuthTime::Known,
            expires_at: now + time::Duration::hours(8),
            last_seen_at: now,
            ended_at: None,
            ip: None,
            user_agent: None,
        };
        let mut sql = server.sql().await;
        console::store::insert_session(&server.app.rows, &mut sql, &session).await.unwrap();
        base64url::encode(secret)
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.server.base));
        self.send(request).await
    }

    /// A GET of the script of a page: the answer has no frame.
    pub async fn get_with(&mut self, path: &str, headers: HeaderMap) -> Answer {
        let request = self.client.get(format!("{}{path}", self.server.base)).headers(headers);
        self.send(request).await
    }

    /// Opens the stream of a page, on any server that has the session.
    pub async fn stream(&self, server: &Server, path: &str, last_id: Option<&str>) -> reqwest::Response {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = self.client.get(format!("{}{path}", server.base)).header(COOKIE, pairs.join("; "));
        let request = request.header("hx-request", "true").header("accept", "text/html, text/event-stream");
        // Servers of one issuer are behind one name.
        let request = request.header("host", self.server.app.issuer.strip_prefix("http://").unwrap());
        let request = match last_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// A GET that follows redirects on the same host.
    pub async fn open(&mut self, path: &str) -> Answer {
        let mut answer = self.get(path).await;
        for _ in 0..5 {
            let Some(next) = answer.headers.get(LOCATION).map(|next| next.to_str().unwrap().to_owned())
            else {
                break;
            };
            answer = self.get(&next).await;
        }
        answer
    }

    /// Sends fields as a page of this server does.
    pub async fn post(&mut self, path: &str, fields: &[(String, String)]) -> Answer {
        let headers = [("sec-fetch-site", "same-origin"), ("origin", self.server.app.issuer.as_str())];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        self.post_with(path, fields, headers.into_iter().collect()).await
    }

    pub async fn post_with(&mut self, path: &str, fields: &[(String, String)], headers: HeaderMap) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client.post(format!("{}{path}", self.server.base)).body(body).headers(headers);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request).await
    }

    /// Sends a form, and opens the page that the answer leads to.
    pub async fn submit(&mut self, form: &Form) -> Answer {
        let answer = self.post(&form.action, &form.fields).await;
        match answer.headers.get(LOCATION) {
            Some(next) if answer.status == 303 => {
                let next = next.to_str().unwrap().to_owned();
                self.open(&next).await
            }
            _ => answer,
        }
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = if pairs.is_empty() { request } else { request.header(COOKIE, pairs.join("; ")) };
        let response = request.send().await.unwrap();
        for field in response.headers().get_all(SET_COOKIE) {
            let pair = field.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            match value {
                "" => drop(self.cookies.remove(name)),
                _ => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        Answer::read(response).await
    }
}

/// A new link of an operator, below the server.
pub async fn link(server: &Server) -> String {
    use secrecy::ExposeSecret as _;
    let made = actchain::services::console::make_link(&server.operator()).await.unwrap();
    made.url.expose_secret().strip_prefix(&server.app.issuer).unwrap().to_owned()
}

/// The form of a page that is sent to a path that ends like this, with what a browser would send untouched.
#[track_caller]
pub fn form(page: &Answer, action: &str) -> Form {
    let found = page.text.split("<form").skip(1).map(|form| form.split("</form>").next().unwrap());
    let mut forms = found.map(read_form).filter(|form| form.action.ends_with(action));
    forms.next().unwrap_or_else(|| panic!("no form for {action} in {}", page.text))
}

fn read_form(text: &str) -> Form {
    let action = attribute(text.split('>').next().unwrap(), "action").unwrap_or_default();
    let inputs = text.split("<input").skip(1).map(|input| input.split('>').next().unwrap());
    let sent = inputs.filter(|input| {
        let kind = attribute(input, "type").unwrap_or_default();
        !["checkbox", "radio"].contains(&kind.as_str()) || input.contains(" checked")
    });
    let fields = sent
        .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default())));
    Form { action, fields: fields.collect() }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let value = rest.split('"').next()?;
    Some(value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

/// Header fields of a request from elsewhere.
pub fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}
