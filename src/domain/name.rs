//! Names that URLs and command lines can carry.

/// Whether a URL path and a command line can carry a name. RFC 3986 §5.2.4 removes the path segments `.` and `..`;
/// commands read an argument that begins with `-` as an option.
pub fn is_addressable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.split('/').all(|part| part != "." && part != "..")
}
