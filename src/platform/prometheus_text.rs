//! Reads metrics in the text format of Prometheus (version 0.0.4).

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// The text between the braces, empty without labels.
    labels: &'a str,
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// The value of a label; an escaped value is not unescaped.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        let (_, rest) = self.labels.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value)
    }
}

/// All samples of a text. Comments and lines that cannot be read are left out.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, labels, value) = match line.split_once('{') {
            Some((name, rest)) => {
                let (labels, value) = rest.rsplit_once('}')?;
                (name, labels, value)
            }
            None => {
                let (name, value) = line.split_once(' ')?;
                (name, "", value)
            }
        };
        // A timestamp can follow the value.
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(Sample { name, labels, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_labels() {
        let text = "# HELP a b\na 1\nb{le=\"0.5\",x=\"}\"} 2.5 1700000000\nc{le=\"+Inf\"} NaN\nnothing\nd{ 1\ne x\n\n";
        let found: Vec<Sample<'_>> = samples(text).collect();
        let read: Vec<(&str, Option<&str>)> = found.iter().map(|one| (one.name, one.label("le"))).collect();
        assert_eq!(read, [("a", None), ("b", Some("0.5")), ("c", Some("+Inf"))]);
        assert_eq!((found[0].value, found[1].value), (1.0, 2.5));
        assert!(found[2].value.is_nan());
    }
}
