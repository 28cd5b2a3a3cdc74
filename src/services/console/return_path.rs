//! The page to return to after a sign-in: below the console of this server, and nowhere else.

use url::Url;

use actchain_protocol::metadata::issuer_path;

/// The longest path with its query, in bytes.
const MAX_BYTES: usize = 2_048;
/// What a sign-in does not return to: pages that are about signing in and out.
const ABOUT_SIGN_IN: [&str; 6] =
    ["sign-in", "sign-out", "signed-out", "callback", "enter", "backchannel-logout"];

/// The path of a page of this console with its query. `None` for anything that a browser could read as another place.
pub(super) fn return_path(issuer: &str, next: &str) -> Option<String> {
    let plain = next.len() <= MAX_BYTES && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let base = Url::parse(issuer).ok()?;
    let url = base.join(next).ok().filter(|url| plain && url.origin() == base.origin())?;
    // A browser removes dot segments: a path that is written in another way than it is read is none of ours.
    let (path, query) = next.split_once('?').map_or((next, None), |(path, query)| (path, Some(query)));
    if url.path() != path || url.query() != query || url.fragment().is_some() {
        return None;
    }
    let below = path.strip_prefix(issuer_path(issuer).as_str())?.strip_prefix("/console")?;
    let first = match below.strip_prefix('/') {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None if below.is_empty() => "",
        None => return None,
    };
    (!ABOUT_SIGN_IN.contains(&first)).then(|| next.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_returns_to_pages_of_this_console_alone() {
        for issuer in ["https://as.example", "https://as.example/t1"] {
            let base = issuer_path(issuer);
            for own in [
                "",
                "/approvals/7",
                "/delegations?state=active&delegate=a%2Fb",
                "/agents/https%3A%2F%2Fa.example",
            ] {
                let next = format!("{base}/console{own}");
                assert_eq!(return_path(issuer, &next), Some(next));
            }
            for evil in [
                "//evil.example/console",
                "///evil.example/console",
                "/\\evil.example/console",
                "\\\\evil.example",
                "https://evil.example/console",
                "https:evil.example/console",
                "javascript:alert(1)",
                "/%2F/evil.example",
                "/consoles",
                "/console/../evil",
                "/console/%2e%2e/evil",
                "/console/./approvals",
                "/console/approvals#x",
                "/console/sign-in",
                "/console/sign-in/0123456789abcdef?next=x",
                "/console/callback/0123456789abcdef",
                "/console/enter/abc",
                "/console/sign-out",
                "/console\t//evil.example",
                "/console\n",
                "console",
                "",
            ] {
                assert_eq!(
                    return_path(issuer, &format!("{base}{evil}")).filter(|_| !evil.is_empty()),
                    None,
                    "{evil}"
                );
                assert_eq!(return_path(issuer, evil), None, "{evil}");
            }
            assert_eq!(return_path(issuer, &format!("{base}/console?{}", "a".repeat(3_000))), None);
        }
        assert_eq!(return_path("https://as.example/t1", "/console"), None, "another issuer on the host");
        assert_eq!(return_path("https://as.example/t1", "/t2/console"), None);
    }
}
