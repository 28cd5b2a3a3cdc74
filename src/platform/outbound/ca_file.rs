//! `outbound.ca_file`: certificates of authorities that are trusted in addition to those of the system.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::BasicConstraints;

use crate::platform::clock;
use crate::platform::fault::{Context, Fault};

/// Reads the certificates of a PEM file. Other text between them is skipped.
///
/// # Errors
/// A fault for a file without certificates, and for a certificate that is broken, has expired, or belongs to no authority.
pub(super) fn read(path: &Path, now: OffsetDateTime) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let name = format!("outbound.ca_file {}", path.display());
    let pem = std::fs::read(path).context(&format!("reading {name}"))?;
    let mut authorities = Vec::new();
    for (at, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let wrong = |why: &str| Fault::new(format!("{name}: certificate {} {why}", at + 1));
        let der = der.map_err(|_| wrong("is not valid PEM"))?;
        check(&der, now).map_err(|why| wrong(&why))?;
        authorities.push(der.into_owned());
    }
    if authorities.is_empty() {
        return Err(Fault::new(format!(
            "{name} has no certificate in PEM: each begins with -----BEGIN CERTIFICATE-----"
        )));
    }
    Ok(authorities)
}

fn check(der: &CertificateDer<'_>, now: OffsetDateTime) -> Result<(), String> {
    // Without the checks of the profile of RFC 5280: certificates of old authorities do not pass all of them.
    let read =
        CertificateInner::<Raw>::from_der(der).map_err(|_| "is not a certificate (X.509)".to_owned())?;
    let read = read.tbs_certificate;
    let constraints = read.get::<BasicConstraints>().ok().flatten();
    if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err("is not the certificate of an authority, but of a server".to_owned());
    }
    let end = i64::try_from(read.validity.not_after.to_unix_duration().as_secs()).ok();
    match end.and_then(clock::from_seconds) {
        Some(end) if end < now => Err(format!("expired at {}: replace or remove it", clock::rfc3339(end))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-06-01 00:00 UTC);

    fn certificate(kind: IsCa, end: OffsetDateTime) -> String {
        let mut params = CertificateParams::new(vec!["ca.example.com".to_owned()]).unwrap();
        (params.is_ca, params.not_after) = (kind, end);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn read_text(text: &str) -> Result<usize, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), NOW).map(|read| read.len()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_file_has_certificates_of_authorities_that_have_not_expired() {
        let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
        let later = datetime!(2027-01-01 00:00 UTC);
        let (one, other) = (certificate(authority(), later), certificate(authority(), later));
        assert_eq!(read_text(&format!("# our authorities\n{one}\nold:\n{other}\n")), Ok(2));
        let expired = certificate(authority(), datetime!(2026-05-31 23:59:59 UTC));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, why) in [
            (String::new(), "has no certificate in PEM"),
            ("certificate".to_owned(), "has no certificate in PEM"),
            (KeyPair::generate().unwrap().serialize_pem(), "has no certificate in PEM"),
            (format!("{one}{}", one.replace("END", "HALF")), "certificate 2 is not valid PEM"),
            (format!("{one}{broken}"), "certificate 2 is not a certificate"),
            (format!("{one}{expired}"), "certificate 2 expired at 2026-05-31T23:59:59"),
            (certificate(IsCa::NoCa, later), "certificate 1 is not the certificate of an authority"),
        ] {
            let complaint = read_text(&text).unwrap_err();
            assert!(complaint.contains("outbound.ca_file ") && complaint.contains(why), "{complaint}");
        }
        let missing = read(Path::new("/nonexistent/ca.pem"), NOW).unwrap_err().to_string();
        assert!(missing.contains("outbound.ca_file /nonexistent/ca.pem"), "{missing}");
    }
}
