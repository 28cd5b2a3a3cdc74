//! A registrar: dynamic client registration (RFC 7591) and deletion (RFC 7592), and a token endpoint, on port 0.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data, Json, Path};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

/// What the registrar does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    #[default]
    None,
    Down,
    /// It does its work, but the answer is lost.
    LosesAnswers,
    Refuses,
    /// It offers no client configuration endpoint.
    Unmanaged,
}

#[derive(Debug, Default)]
struct Books {
    trouble: Trouble,
    /// Registered clients: the registration access token and the metadata, by id.
    clients: BTreeMap<String, (String, Value)>,
    /// The agents of all registrations, in order.
    registered: Vec<String>,
    requests: usize,
    number: usize,
    bearer: Option<String>,
}

pub struct RegistrarDouble {
    pub base: String,
    books: Arc<Mutex<Books>>,
    handle: ServerHandle,
}

impl RegistrarDouble {
    /// A registrar that accepts requests to register with this token.
    pub async fn start(bearer: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let books = Arc::new(Mutex::new(Books { bearer: Some(bearer.to_owned()), ..Books::default() }));
        let shared = Data::new((base.clone(), Arc::clone(&books)));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/clients-registrations/openid-connect", web::post().to(register))
                .route("/clients-registrations/openid-connect/{id}", web::delete().to(delete))
                .route("/protocol/openid-connect/token", web::post().to(token))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { base, books, handle }
    }

    pub fn is(&self, trouble: Trouble) {
        self.books.lock().unwrap().trouble = trouble;
    }

    /// The metadata of all registered clients.
    pub fn clients(&self) -> Vec<Value> {
        self.books.lock().unwrap().clients.values().map(|(_, metadata)| metadata.clone()).collect()
    }

    pub fn registered(&self) -> Vec<String> {
        self.books.lock().unwrap().registered.clone()
    }

    pub fn requests(&self) -> usize {
        self.books.lock().unwrap().requests
    }

    /// Forgets all clients.
    pub fn forget(&self) {
        self.books.lock().unwrap().clients.clear();
    }

    /// The registration access tokens.
    pub fn secrets(&self) -> Vec<String> {
        self.books.lock().unwrap().clients.values().map(|(token, _)| token.clone()).collect()
    }
}

impl Drop for RegistrarDouble {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

type Shared = Data<(String, Arc<Mutex<Books>>)>;

fn bearer(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get("authorization")?.to_str().unwrap();
    Some(value.strip_prefix("Bearer ")?.to_owned())
}

fn trouble(books: &mut Books) -> Option<HttpResponse> {
    books.requests += 1;
    match books.trouble {
        Trouble::Down => Some(HttpResponse::ServiceUnavailable().finish()),
        Trouble::Refuses => {
            Some(HttpResponse::BadRequest().json(json!({"error": "invalid_client_metadata"})))
        }
        Trouble::None | Trouble::LosesAnswers | Trouble::Unmanaged => None,
    }
}

async fn register(request: HttpRequest, shared: Shared, metadata: Json<Value>) -> HttpResponse {
    let mut books = shared.1.lock().unwrap();
    if let Some(answer) = trouble(&mut books) {
        return answer;
    }
    if bearer(&request) != books.bearer {
        return HttpResponse::Unauthorized().json(json!({"error": "invalid_token"}));
    }
    // As Keycloak does: there has to be a key for signatures.
    if !metadata["jwks"]["keys"].as_array().unwrap().iter().any(|key| key["use"] == "sig") {
        return HttpResponse::BadRequest().json(json!({"error": "invalid_client_metadata"}));
    }
    books.number += 1;
    let (id, token) = (format!("client-{}", books.number), format!("registration-token-{}", books.number));
    books.registered.push(metadata["software_id"].as_str().unwrap().to_owned());
    books.clients.insert(id.clone(), (token.clone(), metadata.0));
    match books.trouble {
        Trouble::LosesAnswers => HttpResponse::BadGateway().finish(),
        Trouble::Unmanaged => HttpResponse::Created().json(json!({"client_id": id})),
        _ => HttpResponse::Created().json(json!({
            "client_id": id, "registration_access_token": token,
            "registration_client_uri": format!("{}/clients-registrations/openid-connect/{id}", shared.0),
        })),
    }
}

async fn delete(request: HttpRequest, shared: Shared, id: Path<String>) -> HttpResponse {
    let mut books = shared.1.lock().unwrap();
    if let Some(answer) = trouble(&mut books) {
        return answer;
    }
    let known = books.clients.get(id.as_str()).map(|(token, _)| token.clone());
    if known.is_none() || known != bearer(&request) {
        return HttpResponse::Unauthorized().finish();
    }
    books.clients.remove(id.as_str());
    match books.trouble {
        Trouble::LosesAnswers => HttpResponse::BadGateway().finish(),
        _ => HttpResponse::NoContent().finish(),
    }
}

async fn token(request: HttpRequest, shared: Shared, body: Bytes) -> HttpResponse {
    let mut books = shared.1.lock().unwrap();
    if let Some(answer) = trouble(&mut books) {
        return answer;
    }
    let basic = super::agent::basic("actchain", "registrar-secret-0123456789");
    let value = request.headers().get("authorization").map(|value| value.to_str().unwrap());
    if value != Some(basic.as_str()) || body != "grant_type=client_credentials" {
        return HttpResponse::Unauthorized().json(json!({"error": "invalid_client"}));
    }
    HttpResponse::Ok().json(json!({"access_token": books.bearer, "token_type": "Bearer"}))
}
