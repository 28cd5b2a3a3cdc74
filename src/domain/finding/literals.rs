//! Fixed texts that a regular expression needs. An expression runs only on texts that have one of them, so that a
//! thousand rules cost little more than one search.

use std::collections::BTreeSet;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::examined_text::{folded, normalised};

/// Fewest bytes of a fixed text that is worth a search.
const MIN_BYTES: usize = 2;
/// Most fixed texts of one expression.
const MAX_ALTERNATIVES: usize = 64;

/// Fixed texts in lower case, one of which is in every text that the expression matches. `None` if there are none.
pub(super) fn required(expression: &Hir) -> Option<BTreeSet<String>> {
    match expression.kind() {
        HirKind::Capture(inner) => required(&inner.sub),
        HirKind::Repetition(inner) if inner.min > 0 => required(&inner.sub),
        HirKind::Repetition(_) => None,
        HirKind::Alternation(branches) => {
            let mut all = BTreeSet::new();
            for branch in branches {
                all.extend(required(branch)?);
            }
            (all.len() <= MAX_ALTERNATIVES).then_some(all)
        }
        HirKind::Concat(parts) => of_parts(parts),
        _ => of_parts(std::slice::from_ref(expression)),
    }
}

/// The best fixed texts of an expression that is the sequence of these parts.
fn of_parts(parts: &[Hir]) -> Option<BTreeSet<String>> {
    let mut best: Option<BTreeSet<String>> = None;
    let mut run = String::new();
    for part in parts {
        match part.kind() {
            // An assertion about a place, such as `\b`: what precedes it is next to what follows.
            _ if part.properties().maximum_len() == Some(0) => {}
            HirKind::Literal(literal) if std::str::from_utf8(&literal.0).is_ok() => {
                run.push_str(&folded(&String::from_utf8_lossy(&literal.0)));
            }
            HirKind::Class(class) if one_letter(class).is_some() => run.extend(one_letter(class)),
            other => {
                consider(&mut best, Some(BTreeSet::from([std::mem::take(&mut run)])));
                let nested =
                    matches!(other, HirKind::Capture(_) | HirKind::Repetition(_) | HirKind::Alternation(_));
                consider(&mut best, nested.then(|| required(part)).flatten());
            }
        }
    }
    consider(&mut best, Some(BTreeSet::from([run])));
    best
}

/// Keeps the texts whose shortest one is longest.
fn consider(best: &mut Option<BTreeSet<String>>, other: Option<BTreeSet<String>>) {
    let shortest = |texts: &BTreeSet<String>| texts.iter().map(String::len).min().unwrap_or_default();
    let Some(other) = other.filter(|texts| shortest(texts) >= MIN_BYTES) else { return };
    if best.as_ref().is_none_or(|best| shortest(&other) > shortest(best)) {
        *best = Some(other);
    }
}

/// The letter of a class that has one letter in all its cases, in lower case. Forms that normalisation replaces, such as
/// the sign for kelvin, are in no text.
fn one_letter(class: &Class) -> Option<char> {
    let Class::Unicode(class) = class else { return None };
    let members = class.iter().flat_map(|range| range.start()..=range.end());
    let mut letters = members.take(8).map(|one| folded(&normalised(&one.to_string())));
    let first = letters.next()?;
    let same = class.iter().map(|range| range.len()).sum::<usize>() <= 4 && letters.all(|one| one == first);
    let mut chars = first.chars();
    let letter = chars.next().filter(|_| same)?;
    chars.next().is_none().then_some(letter)
}

#[cfg(test)]
mod tests {
    use super::super::examined_text::ExaminedText;
    use super::*;
    use proptest::prelude::*;

    fn of(expression: &str) -> Option<Vec<String>> {
        required(&regex_syntax::parse(expression).unwrap()).map(|texts| texts.into_iter().collect())
    }

    #[test]
    fn fixed_texts_are_found_in_all_shapes_of_expressions() {
        for (expression, texts) in [
            (r"\bnsenter\b", Some(vec!["nsenter"])),
            (r"(?i)\bDocker\s+run", Some(vec!["docker"])),
            (r"(?:^|\s)mknod\s+\S+\s+[bc]\b", Some(vec!["mknod"])),
            (r"/dev/(sd[a-z]|nvme\d)", Some(vec!["/dev/"])),
            (r"(insmod|modprobe) ", Some(vec!["insmod", "modprobe"])),
            (r"(insmod|[a-z]+)", None),
            (r"(ab)?cde", Some(vec!["cde"])),
            (r"(abc)+", Some(vec!["abc"])),
            (r"[Kk]ill", Some(vec!["kill"])),
            (r".*", None),
            (r"\d{3}", None),
            ("", None),
        ] {
            let texts = texts.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(of(expression), texts, "{expression}");
        }
    }

    proptest! {
        #[test]
        fn a_text_that_matches_has_one_of_the_fixed_texts(
            expression in r"(\(\?i\))?((\(ab\|k[sS]\))|(\\b)|(kd)|(\[xX\])|(é)|(ß)|(\.)|(b\*)|(S)|(c\?)){1,6}",
            text in "[abkKsSdDxXéÉßẞc ]{0,24}",
        ) {
            let text = ExaminedText::of(&text);
            let matches = regex::Regex::new(&expression).unwrap().is_match(&text.plain);
            if let Some(fixed) = of(&expression).filter(|_| matches) {
                prop_assert!(fixed.iter().any(|one| text.folded.contains(one)), "{fixed:?}");
            }
        }
    }
}
