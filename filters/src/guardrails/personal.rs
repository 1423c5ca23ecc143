//! Personal data in a text: by its form, and where it has one by its check digits.

use std::sync::LazyLock;

use regex::Regex;

/// What is known.
pub(super) const KINDS: [&str; 5] = ["email", "phone", "credit_card", "iban", "us_ssn"];

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\b[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}\b"));
static PHONE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:\+|\b00|\(|\b)\d(?:[ ().\-/]{0,2}\d){8,14}\b"));
static CARD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d(?:[ -]?\d){12,18}\b"));
static IBAN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b"));
static SSN: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(\d{3})-(\d{2})-(\d{4})\b"));

fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("a fixed pattern, which the tests compile")
}

/// How often a kind of [`KINDS`] is in the text.
pub(super) fn count(kind: &str, text: &str) -> usize {
    match kind {
        "email" => EMAIL.find_iter(text).count(),
        "phone" => {
            let cards = CARD.find_iter(text).filter(|found| is_card(&digits(found.as_str())));
            let accounts = IBAN.find_iter(text).filter(|found| is_iban(found.as_str()));
            let others: Vec<_> = cards.chain(accounts).map(|found| found.range()).collect();
            let is_other = |at: usize| others.iter().any(|range| range.contains(&at));
            let all = PHONE.find_iter(text).filter(|found| is_phone(found.as_str()));
            all.filter(|found| !is_other(found.start()) && !is_other(found.end() - 1)).count()
        }
        "credit_card" => {
            CARD.find_iter(text).filter(|found| is_card(&digits(found.as_str()))).count()
        }
        "iban" => IBAN.find_iter(text).filter(|found| is_iban(found.as_str())).count(),
        "us_ssn" => {
            let all = SSN.captures_iter(text);
            all.filter(|found| is_ssn(&found[1], &found[2], &found[3])).count()
        }
        _ => 0,
    }
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|char| char.to_digit(10)).collect()
}

/// A number that is written like one to be called: international, or in groups. Plain numbers, dates and cards are not.
fn is_phone(text: &str) -> bool {
    let digits = digits(text);
    let groups =
        text.split(|c: char| !c.is_ascii_digit()).filter(|group| !group.is_empty()).count();
    let is_international = text.starts_with('+') || text.starts_with("00");
    let is_grouped = groups >= 3 || text.starts_with('(');
    let is_date = groups == 3 && digits.len() == 8;
    (9..=15).contains(&digits.len())
        && (is_international || (is_grouped && digits.len() >= 10))
        && !is_date
}

/// A card's number begins as one and its last digit checks the others (ISO/IEC 7812, Luhn).
fn is_card(digits: &[u32]) -> bool {
    let begins = digits.first().is_some_and(|first| (2..=6).contains(first));
    let is_one = digits.windows(2).all(|pair| pair[0] == pair[1]);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => *digit,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    (13..=19).contains(&digits.len()) && begins && !is_one && sum.is_multiple_of(10)
}

/// Lengths by country, of those that have most of the accounts. Source: the IBAN registry (SWIFT).
const LENGTHS: [(&str, usize); 40] = [
    ("AD", 24),
    ("AE", 23),
    ("AT", 20),
    ("BE", 16),
    ("BG", 22),
    ("BR", 29),
    ("CH", 21),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("EE", 20),
    ("ES", 24),
    ("FI", 18),
    ("FR", 27),
    ("GB", 22),
    ("GR", 27),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IS", 26),
    ("IT", 27),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("MC", 27),
    ("MT", 31),
    ("NL", 18),
    ("NO", 15),
    ("PL", 28),
    ("PT", 25),
    ("RO", 24),
    ("RS", 22),
    ("SA", 24),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("TR", 26),
];

/// An account whose check digits fit (ISO 13616). A word in capitals may stand right behind it.
fn is_iban(text: &str) -> bool {
    let bare: Vec<char> = text.chars().filter(|char| *char != ' ').collect();
    let country: String = bare.iter().take(2).collect();
    let Some((_, length)) = LENGTHS.iter().find(|(known, _)| *known == country) else {
        return false;
    };
    let Some(account) = bare.get(..*length) else { return false };
    let rest = account[4..].iter().chain(&account[..4]);
    let remainder = rest.fold(0_u32, |sum, char| {
        let value = char.to_digit(36).unwrap_or(0);
        (sum * if value > 9 { 100 } else { 10 } + value) % 97
    });
    remainder == 1
}

/// A number that the authority gives out.
fn is_ssn(area: &str, group: &str, serial: &str) -> bool {
    !matches!(area, "000" | "666") && !area.starts_with('9') && group != "00" && serial != "0000"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_data_is_told_from_numbers_that_look_like_it() {
        for (kind, text, want) in [
            ("email", "write to Ada.L+x@mail.example.org, please", 1),
            ("email", "user@localhost, a @ b.c, @handle", 0),
            ("phone", "call +49 30 901820 or (212) 555-0147 x", 2),
            ("phone", "212-555-0147", 1),
            ("phone", "4111 1111 1111 1111 DE89 3704 0044 0532 0130 00", 0),
            ("phone", "on 2026-11-23 at 10:11, id 1234567890123", 0),
            ("credit_card", "4111-1111-1111-1111 and 378282246310005", 2),
            ("credit_card", "4111111111111112 0000000000000000 1234567890123456", 0),
            ("iban", "DE89 3704 0044 0532 0130 00 IS MINE, GB82WEST12345698765432", 2),
            ("iban", "DE89 3704 0044 0532 0130 01, XX00 1111 2222 3333 4444", 0),
            ("us_ssn", "078-05-1120", 1),
            ("us_ssn", "000-12-3456 666-12-3456 912-12-3456 123-00-4567", 0),
        ] {
            assert_eq!(count(kind, text), want, "{kind}: {text}");
        }
    }
}
