//! The table of members in OCSF and CEF in the documentation is that of the program.

use actchain_protocol::siem_mapping::MAPPINGS;

const PAGE: &str = "docs/reference/audit-sinks.md";
const HEAD: &str = "| event | OCSF | CEF |\n| --- | --- | --- |\n";

/// Members that events have only with the names of people and their personal data.
const PERSONAL: [&str; 5] = ["/ip", "/user_agent", "/texts/client_name", "/texts/reason", "/texts/agent"];

fn table() -> String {
    let row = |one: &actchain_protocol::siem_mapping::SiemMapping| {
        let name = one.event.trim_start_matches('/').replace('/', ".");
        let mark = if PERSONAL.contains(&one.event) { " (`people`)" } else { "" };
        let cef = if one.cef.is_empty() { String::new() } else { format!("`{}` ", one.cef) };
        format!("| `{name}`{mark} | `{}` | {cef}|\n", one.ocsf)
    };
    MAPPINGS.iter().map(row).collect()
}

#[test]
fn the_table_of_ocsf_and_cef_is_that_of_the_program() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(HEAD).unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let expected = format!("{before}{HEAD}{}\n{after}", table());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    assert_eq!(page, expected, "write it again: BLESS=1 cargo test --test repository the_table_of_ocsf");
}
