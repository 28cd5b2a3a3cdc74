//! Declared providers, by `apply` and by administrators.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use super::discover::discover;
use super::exchange_declaration::ExchangeDeclaration;
use crate::domain::client::AuthMethod;
use crate::domain::provider::{
    self, CredentialPlacement, OauthSettings, Provider, ProviderKind, ProviderSettings, RequestEncoding,
    RevocationToken, Separator,
};
use crate::domain::vault::exchanged;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::Outbound;
use crate::platform::secret;
use crate::platform::yaml::{self, Place};
use actchain_protocol::{hop_by_hop, oauth_client, scope};

/// A provider of credentials. What a template says is the default of each member.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = crate::services::manifest::schema::with_id)]
pub struct ProviderDeclaration {
    /// Provider id: letters, digits and `-_.`, not beginning with `-`.
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[A-Za-z0-9_.][A-Za-z0-9_.-]*$"),
        example = &"calendar"
    )]
    pub id: String,
    /// Template of a well-known provider.
    #[schemars(example = &"google")]
    pub template: Option<String>,
    /// Name for people; the id where absent.
    #[schemars(example = &"Calendar")]
    name: Option<String>,
    /// Kind of the credentials; `oauth2` where absent. It does not change.
    kind: Option<ProviderKind>,
    /// Issuer identifier of an authorization server. Without `token_endpoint`, its endpoints are taken from its metadata
    /// (RFC 8414).
    #[schemars(example = &"https://accounts.example.com")]
    issuer: Option<String>,
    /// Authorization endpoint; without one, credentials are imported only.
    #[schemars(example = &"https://accounts.example.com/authorize")]
    authorization_endpoint: Option<String>,
    /// Token endpoint; where absent, the endpoint in the issuer's metadata.
    #[schemars(example = &"https://accounts.example.com/token")]
    token_endpoint: Option<String>,
    /// Revocation endpoint (RFC 7009).
    #[schemars(example = &"https://accounts.example.com/revoke")]
    revocation_endpoint: Option<String>,
    /// Client id of this server at the provider; needed for `oauth2`.
    #[schemars(example = &"actchain")]
    client_id: Option<String>,
    /// Client secret of this server at the provider.
    #[schemars(with = "Option<String>", example = &"provider-secret-0123456789")]
    client_secret: Option<SecretString>,
    /// File with the client secret; a line break at its end is ignored.
    #[schemars(example = &"/run/secrets/calendar")]
    client_secret_file: Option<PathBuf>,
    /// Authentication method at the token endpoint; `client_secret_basic` with a client secret and `none` without one where
    /// absent. `private_key_jwt` is not supported.
    token_endpoint_auth: Option<AuthMethod>,
    /// Encoding of requests to the token endpoint; `form` where absent.
    token_body: Option<RequestEncoding>,
    /// The exchange of a token of the chain at the token endpoint, for `token_exchange` only.
    exchange: Option<ExchangeDeclaration>,
    /// Scopes that owners can be asked for; for `token_exchange`, the most that agents get.
    #[schemars(example = ["events.read"])]
    scopes: BTreeSet<String>,
    /// Scopes that are requested in addition, always.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(example = ["offline_access"])]
    always_scopes: Option<BTreeSet<String>>,
    /// Separator of scopes; `space` where absent.
    scope_separator: Option<Separator>,
    /// Further parameters of the authorization request.
    #[schemars(example = serde_json::json!({"access_type": "offline"}))]
    authorization_params: BTreeMap<String, String>,
    /// Token that is sent to the revocation endpoint; `refresh_token` where absent.
    revocation_token: Option<RevocationToken>,
    /// Error codes of the token endpoint that only the owner can cure, besides the standard ones.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(example = ["interaction_required"])]
    reconnect_errors: Option<BTreeSet<String>>,
    /// Header field in which the proxy sends the credential; `authorization` where absent.
    #[schemars(example = &"x-api-key")]
    header: Option<String>,
    /// Scheme before the credential in that field: `Bearer`, `Basic`, or nothing, by kind and header, where absent.
    #[schemars(example = &"Bearer")]
    scheme: Option<String>,
    /// Further header fields of proxied requests that are passed on.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(example = ["x-api-version"])]
    request_headers: Option<BTreeSet<String>>,
    /// Hosts (https) and origins that the proxy can send the credential to; none where absent.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(example = ["api.example.com"])]
    hosts: Option<BTreeSet<String>>,
    /// Methods of proxied requests; any where absent. An empty list is refused.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(length(min = 1), example = ["GET"])]
    methods: Option<BTreeSet<String>>,
    /// Beginnings of the paths of proxied requests; any path where absent. An empty list is refused.
    #[serde(deserialize_with = "yaml::present")]
    #[schemars(length(min = 1), example = ["/v1/"])]
    paths: Option<BTreeSet<String>>,
    #[serde(skip)]
    pub(in crate::services) place: Place,
}

/// A complete and checked declaration.
#[derive(Debug)]
pub struct ResolvedProvider {
    pub id: String,
    pub(in crate::services) place: Place,
    pub(super) settings: ProviderSettings,
    pub(super) secret: Option<SecretString>,
}

static TEMPLATES: LazyLock<BTreeMap<String, ProviderDeclaration>> = LazyLock::new(|| {
    let text = include_str!("../../domain/provider/templates.yaml");
    serde_saphyr::from_str(text).unwrap_or_default()
});

/// Completes a declaration by its template, and by the provider's metadata where no token endpoint is declared. Sends
/// requests to the provider, so it must not run inside a transaction.
pub async fn prepare(outbound: &Outbound, declared: ProviderDeclaration) -> Result<ResolvedProvider, Fault> {
    let what = format!("provider {}", declared.id);
    let bad = |why: &str| Fault::new(format!("{what}: {why}"));
    if !provider::is_id(&declared.id) {
        return Err(bad("id may have letters, digits and -_., at most 64"));
    }
    let declared = match &declared.template {
        None => declared,
        Some(name) => {
            let template = TEMPLATES.get(name);
            let names = || TEMPLATES.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let template = template
                .ok_or_else(|| bad(&format!("there is no template {name}; there are {}", names())))?;
            declared.over(template.clone())
        }
    };
    let kind = declared.kind.unwrap_or(ProviderKind::Oauth2);
    let secret = match (&declared.client_secret, &declared.client_secret_file) {
        (Some(_), Some(_)) => return Err(bad("client_secret and client_secret_file exclude each other")),
        (Some(secret), None) => Some(secret.clone()),
        (None, Some(path)) => Some(secret::read_file(path).context(&what)?),
        (None, None) => None,
    };
    let oauth = match kind {
        ProviderKind::Oauth2 => Some(oauth(outbound, &declared, secret.as_ref()).await.context(&what)?),
        ProviderKind::TokenExchange => {
            declared.check_exchange().map_err(|why| bad(&why))?;
            let oauth = oauth(outbound, &declared, secret.as_ref()).await.context(&what)?;
            let exchange = declared.exchange.clone().unwrap_or_default().complete(&oauth);
            let exchange = Some(exchange.map_err(|why| bad(&why))?);
            // The metadata of the issuer may name an authorization endpoint, but owners connect nothing.
            Some(OauthSettings { exchange, authorization_endpoint: None, ..oauth })
        }
        ProviderKind::ApiKey | ProviderKind::Basic => None,
    };
    if oauth.is_none() && (secret.is_some() || declared.token_endpoint.is_some() || declared.issuer.is_some())
    {
        return Err(bad("endpoints and client secrets belong to kind oauth2 or token_exchange"));
    }
    if declared.exchange.is_some() && kind != ProviderKind::TokenExchange {
        return Err(bad("exchange belongs to kind token_exchange"));
    }
    let placement = placement(kind, &declared).map_err(|why| bad(&why))?;
    let settings = ProviderSettings {
        name: declared.name.clone().unwrap_or_else(|| declared.id.clone()),
        kind,
        oauth,
        placement,
    };
    Ok(ResolvedProvider { id: declared.id, place: declared.place, settings, secret })
}

impl ProviderDeclaration {
    /// Whether the declaration names a local file; only a manifest of an operator can.
    pub fn names_a_file(&self) -> bool {
        self.client_secret_file.is_some()
    }

    /// The declaration with a secret, if it names neither a secret nor an authentication without one.
    pub(super) fn with_secret(&self, secret: &SecretString) -> Option<Self> {
        let names_none = self.client_secret.is_none()
            && self.client_secret_file.is_none()
            && self.token_endpoint_auth != Some(AuthMethod::None);
        names_none.then(|| Self { client_secret: Some(secret.clone()), ..self.clone() })
    }

    /// Checks a declaration of kind `token_exchange`: it has no members that only owners need to connect.
    fn check_exchange(&self) -> Result<(), String> {
        if !exchanged::is_provider_name(&self.id) {
            return Err(
                "the id of a provider of kind token_exchange is no UUID, as ids of connections are".into()
            );
        }
        let unused = [
            ("authorization_endpoint", self.authorization_endpoint.is_some()),
            ("authorization_params", !self.authorization_params.is_empty()),
            ("always_scopes", self.always_scopes.is_some()),
            ("reconnect_errors", self.reconnect_errors.is_some()),
        ];
        match unused.iter().find(|(_, declared)| *declared) {
            Some((member, _)) => {
                Err(format!("{member} is not for kind token_exchange: owners connect nothing"))
            }
            None => Ok(()),
        }
    }

    /// Members of the declaration, with the template's members as defaults.
    fn over(self, template: Self) -> Self {
        let params = template.authorization_params.into_iter().chain(self.authorization_params).collect();
        Self {
            name: self.name.or(template.name),
            issuer: self.issuer.or(template.issuer),
            authorization_endpoint: self.authorization_endpoint.or(template.authorization_endpoint),
            token_endpoint: self.token_endpoint.or(template.token_endpoint),
            revocation_endpoint: self.revocation_endpoint.or(template.revocation_endpoint),
            token_endpoint_auth: self.token_endpoint_auth.or(template.token_endpoint_auth),
            token_body: self.token_body.or(template.token_body),
            always_scopes: self.always_scopes.or(template.always_scopes),
            scope_separator: self.scope_separator.or(template.scope_separator),
            authorization_params: params,
            revocation_token: self.revocation_token.or(template.revocation_token),
            reconnect_errors: self.reconnect_errors.or(template.reconnect_errors),
            request_headers: self.request_headers.or(template.request_headers),
            hosts: self.hosts.or(template.hosts),
            ..self
        }
    }
}

async fn oauth(
    outbound: &Outbound,
    declared: &ProviderDeclaration,
    secret: Option<&SecretString>,
) -> Result<OauthSettings, Fault> {
    let client_id = declared.client_id.clone().ok_or_else(|| Fault::new("client_id is needed"))?;
    let said = match (&declared.issuer, &declared.token_endpoint) {
        (Some(issuer), None) => Some(discover(outbound, issuer).await?),
        _ => None,
    };
    let token_endpoint = declared.token_endpoint.clone();
    let token_endpoint = token_endpoint.or_else(|| said.as_ref().map(|said| said.token_endpoint.clone()));
    let token_endpoint = token_endpoint.ok_or_else(|| Fault::new("issuer or token_endpoint is needed"))?;
    let default = if secret.is_some() { AuthMethod::ClientSecretBasic } else { AuthMethod::None };
    let auth = declared.token_endpoint_auth.unwrap_or(default);
    if auth.uses_secret() != secret.is_some() || auth == AuthMethod::PrivateKeyJwt {
        return Err(Fault::new(
            "token_endpoint_auth is client_secret_basic or client_secret_post with a client secret, none without",
        ));
    }
    let of = |own: &Option<String>, said: Option<String>| own.clone().or(said);
    let oauth = OauthSettings {
        issuer: declared.issuer.clone(),
        authorization_response_iss_parameter_supported: said
            .as_ref()
            .is_some_and(|said| said.authorization_response_iss_parameter_supported),
        authorization_endpoint: of(
            &declared.authorization_endpoint,
            said.as_ref().and_then(|said| said.authorization_endpoint.clone()),
        ),
        token_endpoint,
        revocation_endpoint: of(
            &declared.revocation_endpoint,
            said.as_ref().and_then(|said| said.revocation_endpoint.clone()),
        ),
        client_id,
        auth,
        scopes: declared.scopes.clone(),
        always_scopes: declared.always_scopes.clone().unwrap_or_default(),
        separator: declared.scope_separator.unwrap_or_default(),
        body: declared.token_body.unwrap_or_default(),
        authorization_params: declared.authorization_params.clone(),
        revocation_token: declared.revocation_token.unwrap_or_default(),
        reconnect_errors: declared.reconnect_errors.clone().unwrap_or_default(),
        exchange: None,
    };
    let urls = [
        Some(&oauth.token_endpoint),
        oauth.authorization_endpoint.as_ref(),
        oauth.revocation_endpoint.as_ref(),
    ];
    if let Some(url) = urls.into_iter().flatten().find(|url| !outbound.may_fetch(url)) {
        return Err(Fault::new(format!("{url} must be https, at a public address or one of outbound.allow")));
    }
    let mut names = oauth.scopes.iter().chain(&oauth.always_scopes);
    if let Some(name) = names.find(|name| !scope::is_token(name)) {
        return Err(Fault::new(format!("{name:?} is not usable as a scope")));
    }
    if let Some(code) = oauth.reconnect_errors.iter().find(|code| !oauth_client::is_error_code(code)) {
        return Err(Fault::new(format!("reconnect_errors: {code:?} is not usable as an error code")));
    }
    // Parameters that protect the authorization request cannot be declared.
    const OURS: [&str; 10] = [
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
        "response_mode",
        // A request object would repeat or override the parameters above.
        "request",
        "request_uri",
    ];
    if let Some(name) = oauth.authorization_params.keys().find(|name| OURS.contains(&name.as_str())) {
        return Err(Fault::new(format!("authorization_params must not hold {name}")));
    }
    Ok(oauth)
}

fn placement(kind: ProviderKind, declared: &ProviderDeclaration) -> Result<CredentialPlacement, String> {
    let header = declared.header.clone().unwrap_or_else(|| "authorization".into()).to_ascii_lowercase();
    let default = match kind {
        ProviderKind::Oauth2 | ProviderKind::TokenExchange => "Bearer",
        ProviderKind::Basic => "Basic",
        ProviderKind::ApiKey if header == "authorization" => "Bearer",
        ProviderKind::ApiKey => "",
    };
    let scheme = declared.scheme.clone().unwrap_or_else(|| default.to_owned());
    if !oauth_client::is_token(&header) || !(scheme.is_empty() || oauth_client::is_token(&scheme)) {
        return Err("header and scheme must be names of a header field and of a scheme".into());
    }
    if !hop_by_hop::may_carry(&header) {
        return Err(format!("{header} cannot carry a credential"));
    }
    let request_headers: BTreeSet<String> =
        declared.request_headers.iter().flatten().map(|name| name.to_ascii_lowercase()).collect();
    if let Some(name) = request_headers.iter().find(|name| !hop_by_hop::may_be_declared(name)) {
        return Err(format!(
            "request_headers: {name:?} is not passed on; names have letters, digits and hyphens, and none says who calls or overrides method or path"
        ));
    }
    if let Some(host) = declared.hosts.iter().flatten().find(|host| provider::origin(host).is_none()) {
        return Err(format!(
            "{host:?} is neither a host name nor an origin such as https://api.example.com:8443"
        ));
    }
    for (member, names, all) in
        [("methods", &declared.methods, "every method"), ("paths", &declared.paths, "every path")]
    {
        if names.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(format!(
                "{member} is an empty list, so that no request could be sent: leave {member} out to allow {all}"
            ));
        }
    }
    if let Some(path) =
        declared.paths.iter().flatten().find(|path| !path.starts_with('/') || path.contains(['?', '#', '%']))
    {
        return Err(format!("{path:?} is not usable as the beginning of paths"));
    }
    if let Some(method) =
        declared.methods.iter().flatten().find(|method| !method.bytes().all(|byte| byte.is_ascii_uppercase()))
    {
        return Err(format!("{method:?} is not usable as a method"));
    }
    Ok(CredentialPlacement {
        header,
        scheme,
        request_headers,
        hosts: declared.hosts.clone().unwrap_or_default(),
        methods: declared.methods.clone().unwrap_or_default(),
        paths: declared.paths.clone().unwrap_or_default(),
    })
}

impl ResolvedProvider {
    /// Whether it has the kind of the one that is there.
    pub(super) fn is_like(&self, old: &Provider) -> bool {
        self.settings.kind == old.settings.kind
    }

    /// OAuth settings, where the provider has an authorization server.
    #[cfg(test)]
    pub(super) fn into_oauth(self) -> Option<OauthSettings> {
        self.settings.oauth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::outbound::AddressPolicy;

    #[tokio::test]
    async fn every_template_is_complete_but_for_the_client() {
        let outbound = Outbound::new(AddressPolicy::Public).unwrap();
        assert_eq!(TEMPLATES.len(), 9);
        for name in TEMPLATES.keys() {
            let declared = ProviderDeclaration {
                id: name.clone(),
                template: Some(name.clone()),
                client_id: Some("c".into()),
                client_secret: Some("s".into()),
                ..ProviderDeclaration::default()
            };
            let ready = prepare(&outbound, declared).await.unwrap();
            let oauth = ready.settings.oauth.unwrap();
            assert!(
                oauth.authorization_endpoint.is_some() && oauth.token_endpoint.starts_with("https://"),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn an_empty_list_of_a_declaration_is_not_filled_in_by_its_template() {
        let outbound = Outbound::new(AddressPolicy::Public).unwrap();
        let lists = "hosts: [], always_scopes: [], reconnect_errors: [], request_headers: []";
        let with = async |more: &str| {
            let yaml = format!("{{id: g, template: google, client_id: c, client_secret: s{more}}}");
            let declared: ProviderDeclaration = serde_saphyr::from_str(&yaml).unwrap();
            prepare(&outbound, declared).await.unwrap().settings
        };
        assert!(!with("").await.placement.hosts.is_empty(), "absent, the template's are used");
        let emptied = with(&format!(", {lists}")).await;
        let oauth = emptied.oauth.unwrap();
        assert!(emptied.placement.hosts.is_empty() && emptied.placement.request_headers.is_empty());
        assert!(oauth.always_scopes.is_empty() && oauth.reconnect_errors.is_empty());
    }

    #[tokio::test]
    async fn a_declaration_that_cannot_be_is_refused_by_name() {
        let outbound = Outbound::new(AddressPolicy::Public).unwrap();
        let complaint = async |yaml: &str| {
            let declared: ProviderDeclaration = serde_saphyr::from_str(yaml).unwrap();
            prepare(&outbound, declared).await.unwrap_err().to_string()
        };
        let token = "token_endpoint: https://a.example.com/t";
        for (yaml, part) in [
            ("{id: a/b, kind: api_key}", "id may have"),
            ("{id: a, template: gogle}", "there is no template"),
            ("{id: a}", "client_id"),
            ("{id: a, client_id: c}", "token_endpoint is needed"),
            ("{id: a, kind: api_key, client_secret: s}", "kind oauth2"),
            ("{id: a, kind: api_key, hosts: ['https://a.example.com/x']}", "origin"),
            ("{id: a, kind: api_key, header: Host}", "cannot carry"),
            ("{id: a, kind: api_key, methods: [get]}", "method"),
            ("{id: a, kind: api_key, methods: []}", "leave methods out to allow every method"),
            ("{id: a, kind: api_key, paths: []}", "leave paths out to allow every path"),
            ("{id: a, kind: api_key, paths: [v1]}", "paths"),
            ("{id: a, kind: api_key, request_headers: [X_Api_Version]}", "request_headers"),
            ("{id: a, kind: api_key, request_headers: [X-Original-URI]}", "request_headers"),
            ("{id: a, kind: api_key, request_headers: [Authorization]}", "request_headers"),
            ("{id: a, client_id: c, token_endpoint: http://a.example.com/}", "https"),
            ("{id: a, client_id: c, token_endpoint: https://10.0.0.1/}", "outbound.allow"),
        ] {
            assert!(complaint(yaml).await.contains(part), "{yaml}: {}", complaint(yaml).await);
        }
        let state = format!("{{id: a, client_id: c, {token}, authorization_params: {{state: x}}}}");
        assert!(complaint(&state).await.contains("state"));
        let errors = format!("{{id: a, client_id: c, {token}, reconnect_errors: ['a code']}}");
        assert!(complaint(&errors).await.contains("reconnect_errors"));
        let auth = format!("{{id: a, client_id: c, {token}, token_endpoint_auth: client_secret_post}}");
        assert!(complaint(&auth).await.contains("client secret"));
    }
}
