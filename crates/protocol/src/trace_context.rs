//! The `traceparent` field (W3C Trace Context §3.2).

/// The trace id of a `traceparent`: 32 lower-case hexadecimal digits; `None` for a malformed field. Fields of later
/// versions can be longer (§3.2.4).
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.splitn(5, '-');
    let (version, trace) = (hexadecimal(parts.next()?, 2)?, hexadecimal(parts.next()?, 32)?);
    let (parent, _flags) = (hexadecimal(parts.next()?, 16)?, hexadecimal(parts.next()?, 2)?);
    let is_unset = |id: &str| id.bytes().all(|digit| digit == b'0');
    let is_of_version = match version {
        "ff" => false,
        "00" => parts.next().is_none(),
        _ => true,
    };
    (is_of_version && !is_unset(trace) && !is_unset(parent)).then_some(trace)
}

fn hexadecimal(text: &str, length: usize) -> Option<&str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == length && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_traceparent_has_a_trace_id() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for field in
            ["00-{}-00f067aa0ba902b7-01", "00-{}-00f067aa0ba902b7-00", "01-{}-00f067aa0ba902b7-01-more-of-it"]
        {
            assert_eq!(trace_id(&field.replace("{}", trace)), Some(trace), "{field}");
        }
        for field in [
            "",
            "00",
            "{}",
            "00-{}-00f067aa0ba902b7",
            "00-{}-00f067aa0ba902b7-01-more",
            "00-{}-00f067aa0ba902b7-1",
            "00-{}-0000000000000000-01",
            "00-{}-00F067AA0BA902B7-01",
            "ff-{}-00f067aa0ba902b7-01",
            "0-{}-00f067aa0ba902b7-01",
            "00-{}0-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            " 00-{}-00f067aa0ba902b7-01",
            "00-{}-00f067aa0ba902b7-01\n",
        ] {
            assert_eq!(trace_id(&field.replace("{}", trace)), None, "{field:?}");
        }
    }
}
