//! Sends mail by SMTP (RFC 5321): over TLS from the first byte (RFC 8314 §3.3), by STARTTLS (RFC 3207), or unencrypted
//! where that is declared. Of the replies of a server, only the code is kept: their text is of another party.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, SystemTime};

use lettre::Message;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use url::{Host, Url};

use super::Outbound;
use super::address_policy::SystemLookup;
use crate::platform::fault::{Context, Fault};

/// Time limit from the connection to the reply to `DATA`.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit for the text and the reply to it: a server checks a mail before that reply (RFC 5321 §4.5.3.2.6). The limits
/// are together shorter than the lease of a sink.
const PATIENCE_FOR_TEXT: Duration = Duration::from_secs(12);
const PATIENCE_FOR_QUIT: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read from a server for one mail.
const MAX_READ: usize = 256 << 10;
/// RFC 6409 §3.1 and RFC 8314 §3.3.
const SUBMISSION: u16 = 587;
const SUBMISSIONS: u16 = 465;
/// Replies about the mailbox of a recipient or about the message (RFC 5321 §4.2.3): other messages may be accepted.
const ABOUT_MESSAGE: [u16; 7] = [450, 452, 550, 551, 552, 553, 554];

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, without which nothing is sent.
    StartTls,
    Unencrypted,
}

/// Where mail is submitted.
#[derive(Debug, Clone)]
pub struct MailServer {
    host: Host<String>,
    port: u16,
    security: MailSecurity,
}

impl MailServer {
    /// Reads `smtp://host` or `smtps://host`, with an optional port. `None` for any other URL.
    pub fn parse(url: &str, security: MailSecurity) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let (scheme, usual) = match security {
            MailSecurity::Tls => ("smtps", SUBMISSIONS),
            MailSecurity::StartTls | MailSecurity::Unencrypted => ("smtp", SUBMISSION),
        };
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        if url.scheme() != scheme || !is_plain {
            return None;
        }
        // Hosts of other schemes than http are not read as addresses by the URL itself.
        let host = Host::parse(url.host_str()?).ok()?;
        Some(Self { host, port: url.port().unwrap_or(usual), security })
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
            Host::Domain(name) => name == "localhost",
        }
    }
}

/// A login at a mail server.
#[derive(Debug)]
pub struct MailLogin {
    pub username: String,
    pub password: SecretString,
}

/// A mail of plain text.
#[derive(Debug)]
pub struct OutgoingMail<'a> {
    /// What `Message-ID` has before the `@`.
    pub id: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub subject: &'a str,
    pub text: &'a str,
    pub at: OffsetDateTime,
}

/// Why a mail was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailFailure {
    pub error: String,
    /// The code of the reply, if the server replied.
    pub code: Option<u16>,
}

impl MailFailure {
    fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: None }
    }

    fn late(_: Elapsed) -> Self {
        Self::new("no answer in time")
    }

    fn at(step: &str, error: &SmtpError) -> Self {
        let code = error.status().and_then(|code| code.to_string().parse().ok());
        let what = match code {
            Some(code) => format!("reply {code}"),
            None if error.is_response() => "an answer that is not SMTP".to_owned(),
            // Names in a certificate are of another party.
            None => error.to_string().chars().filter(|one| !one.is_control()).collect(),
        };
        Self { error: format!("{step}: {what}"), code }
    }

    /// Whether the server objects to the message or its recipient, so that others may be accepted now.
    pub fn is_about_message(&self) -> bool {
        self.code.is_some_and(|code| ABOUT_MESSAGE.contains(&code))
    }
}

/// Whether a text is an address, such as `alice@example.com`, in ASCII.
pub fn is_mail_address(text: &str) -> bool {
    text.is_ascii() && text.parse::<lettre::Address>().is_ok()
}

/// Whether a text is an address with an optional name, such as `actchain <actchain@example.com>`.
pub fn is_mailbox(text: &str) -> bool {
    text.parse::<Mailbox>().is_ok_and(|one| one.email.to_string().is_ascii())
}

impl Outbound {
    /// Whether a mail server may be connected to, as far as this can be decided without resolving its host.
    pub fn may_mail(&self, server: &MailServer) -> bool {
        self.reach.allows_host(&server.host)
    }

    /// Sends one mail, within 23 seconds. Once the server has accepted the mail, nothing makes it a failure.
    ///
    /// # Errors
    /// Why the server did not accept the mail, or was not reached.
    pub async fn mail(
        &self,
        server: &MailServer,
        login: Option<MailLogin>,
        mail: &OutgoingMail<'_>,
    ) -> Result<(), MailFailure> {
        let message = message(mail).map_err(|fault| MailFailure::new(fault.to_string()))?;
        let until = Instant::now() + PATIENCE;
        let opening = timeout_at(until, self.open(server, login, &message)).await;
        let mut session = opening.map_err(MailFailure::late)??;
        let sent = submit(&mut session, &message, until).await;
        if sent.as_ref().err().is_none_or(|failure| failure.code.is_some()) {
            let _ = timeout(PATIENCE_FOR_QUIT, session.quit()).await;
        }
        sent
    }

    /// A session in which mail can be submitted.
    async fn open(
        &self,
        server: &MailServer,
        login: Option<MailLogin>,
        message: &Message,
    ) -> Result<AsyncSmtpConnection, MailFailure> {
        let hello = message.envelope().from().map(|from| ClientId::Domain(from.domain().to_owned()));
        let hello = hello.ok_or_else(|| MailFailure::new("the mail has no sender"))?;
        let addresses = self.reach.resolve(&server.host, server.port, SystemLookup).await;
        let addresses = addresses.map_err(|error| MailFailure::new(error.to_string()))?;
        let at = |step: &'static str| move |error: SmtpError| MailFailure::at(step, &error);
        let mut session = match server.security {
            MailSecurity::Tls => {
                let tls = self.mail_tls(server).map_err(at("TLS"))?;
                let connecting =
                    AsyncSmtpConnection::connect_tokio1(&*addresses, None, &hello, Some(tls), None);
                connecting.await.map_err(at("connecting"))?
            }
            MailSecurity::StartTls | MailSecurity::Unencrypted => {
                let stream = LimitedStream::connect(&addresses).await;
                let stream = stream.map_err(|error| MailFailure::new(format!("connecting: {error}")))?;
                let connecting = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello);
                connecting.await.map_err(at("connecting"))?
            }
        };
        if server.security == MailSecurity::StartTls {
            let tls = self.mail_tls(server).map_err(at("STARTTLS"))?;
            session.starttls(tls, &hello).await.map_err(at("STARTTLS"))?;
        }
        if let Some(MailLogin { username, password }) = login {
            let login = Credentials::new(username, password.expose_secret().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            session.auth(&mechanisms, &login).await.map_err(at("authentication"))?;
        }
        Ok(session)
    }

    /// Verifies the name of the host by the authorities of the system and those of `outbound.ca_file`.
    fn mail_tls(&self, server: &MailServer) -> Result<TlsParameters, SmtpError> {
        let mut tls = TlsParameters::builder(match &server.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        });
        for authority in self.authorities.iter() {
            tls = tls.add_root_certificate(Certificate::from_der(authority.to_vec())?);
        }
        tls.build_rustls()
    }
}

/// Submits a mail, and waits for the reply to its text. `until` limits what comes before the text.
async fn submit(
    session: &mut AsyncSmtpConnection,
    message: &Message,
    until: Instant,
) -> Result<(), MailFailure> {
    timeout_at(until, announce(session, message)).await.map_err(MailFailure::late)??;
    let text = message.formatted();
    let replied = timeout(PATIENCE_FOR_TEXT, session.message(&text)).await.map_err(MailFailure::late)?;
    replied.map(drop).map_err(|error| MailFailure::at("sending", &error))
}

/// Sends all before the text. Unlike `AsyncSmtpConnection::send`, leaves `QUIT` after a refusal to the caller.
async fn announce(session: &mut AsyncSmtpConnection, message: &Message) -> Result<(), MailFailure> {
    let refused = |error: SmtpError| MailFailure::at("sending", &error);
    let from = message.envelope().from().cloned();
    session.command(Mail::new(from, Vec::new())).await.map_err(refused)?;
    for to in message.envelope().to() {
        session.command(Rcpt::new(to.clone(), Vec::new())).await.map_err(refused)?;
    }
    session.command(Data).await.map_err(refused)?;
    Ok(())
}

fn message(mail: &OutgoingMail<'_>) -> Result<Message, Fault> {
    let what = "writing a mail";
    let from: Mailbox = mail.from.parse().context(what)?;
    let to: Mailbox = mail.to.parse().context(what)?;
    let raw = |name, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
    Message::builder()
        .message_id(Some(format!("<{}@{}>", mail.id, from.email.domain())))
        .from(from)
        .to(to)
        .date(SystemTime::from(mail.at))
        .subject(mail.subject)
        // RFC 3834 §5: answering machines do not answer it.
        .raw_header(raw("Auto-Submitted", "auto-generated"))
        .header(ContentType::TEXT_PLAIN)
        .body(mail.text.to_owned())
        .context(what)
}

/// A connection from which a limited number of bytes is read.
#[derive(Debug)]
struct LimitedStream {
    stream: TcpStream,
    left: usize,
    /// Whether STARTTLS was the last command. What comes with its reply would be read as if it came over TLS.
    is_before_tls: bool,
}

impl LimitedStream {
    async fn connect(addresses: &[SocketAddr]) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect(addresses).await?, left: MAX_READ, is_before_tls: false })
    }
}

impl AsyncTokioStream for LimitedStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        let Some(left) = self.left.checked_sub(read.len()) else {
            return Poll::Ready(Err(io::Error::other("the server sends too much")));
        };
        self.left = left;
        let end = read.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        if self.is_before_tls && end.is_some_and(|end| end < read.len()) {
            return Poll::Ready(Err(io::Error::other("the server sends more than a reply before TLS")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_before_tls = bytes == b"STARTTLS\r\n";
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::outbound::AddressPolicy;

    #[test]
    fn a_server_is_a_host_with_a_port_and_no_more() {
        let read = |url: &str, security| {
            MailServer::parse(url, security).map(|one| (one.host.to_string(), one.port))
        };
        let named = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("smtp://mail.example.com", MailSecurity::StartTls), named("mail.example.com", 587));
        assert_eq!(read("smtps://mail.example.com/", MailSecurity::Tls), named("mail.example.com", 465));
        assert_eq!(read("smtp://127.0.0.1:25", MailSecurity::Unencrypted), named("127.0.0.1", 25));
        assert_eq!(read("smtp://[::1]:25", MailSecurity::StartTls), named("[::1]", 25));
        for url in [
            "smtps://mail.example.com",
            "https://mail.example.com",
            "smtp://user@mail.example.com",
            "smtp://mail.example.com/inbox",
            "smtp://mail.example.com?tls=none",
            "smtp://mail.example.com#a",
            "smtp:mail.example.com",
            "smtp://",
        ] {
            assert!(MailServer::parse(url, MailSecurity::StartTls).is_none(), "{url}");
        }
    }

    #[test]
    fn private_addresses_get_no_mail_in_any_spelling() {
        let public = Outbound::new(AddressPolicy::Public).unwrap();
        let may = |url: &str| public.may_mail(&MailServer::parse(url, MailSecurity::StartTls).unwrap());
        assert!(may("smtp://mail.example.com") && may("smtp://93.184.216.34"));
        for url in ["smtp://127.0.0.1", "smtp://10.0.0.1", "smtp://2130706433", "smtp://[::ffff:10.0.0.1]"] {
            assert!(!may(url), "{url}");
        }
    }

    #[test]
    fn addresses_are_in_ascii_and_on_one_line() {
        assert!(is_mail_address("alice@example.com") && is_mailbox("actchain <no-reply@example.com>"));
        for text in ["", "alice", "a@b@c", "alice@example.com\r\nBcc: eve@example.com", "\u{e9}@example.com"]
        {
            assert!(!is_mail_address(text) && !is_mailbox(text), "{text}");
        }
        assert!(!is_mailbox("a\r\nBcc: b <c@example.com>"));
    }
}
