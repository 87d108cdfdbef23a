//! Slurm's way to write many hosts: `login,node[01-03,7],r[1-2]n[1-2]`. Rank 0 runs on the first, so only that is expanded.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// The first host of the list.
pub(super) fn first_host(list: &str) -> Result<String> {
    let refused = |why: &str| Error::invalid(format!("the Slurm node list \"{list}\": {why}"));
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let cut = rest.find(['[', ']', ',']).unwrap_or(rest.len());
        host.push_str(&rest[..cut]);
        match rest[cut..].chars().next() {
            Some('[') => {
                let (range, after) =
                    rest[cut + 1..].split_once(']').ok_or_else(|| refused("a bracket is not closed"))?;
                let first = range.split([',', '-']).next().unwrap_or_default();
                if first.is_empty() || !first.bytes().all(|digit| digit.is_ascii_digit()) {
                    return Err(refused("brackets hold numbers and ranges of numbers"));
                }
                host.push_str(first);
                rest = after;
            }
            Some(']') => return Err(refused("a bracket closes that was not opened")),
            _ => break,
        }
    }
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:".contains(letter);
    if host.is_empty() || !host.chars().all(is_plain) {
        return Err(refused("it begins with no host name"));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn brackets_give_their_first_number_with_its_zeros() {
        let firsts = [
            ("node1", "node1"),
            ("login,node[1-3]", "login"),
            ("node[01-03,7],gpu5", "node01"),
            ("node[7,9]", "node7"),
            ("r[1-2]n[003-4].lan", "r1n003.lan"),
            (" tux[0-9]\n", "tux0"),
        ];
        for (list, first) in firsts {
            assert_eq!(first_host(list).unwrap(), first, "{list}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for list in ["", ",a", "node[1-2", "node]1[", "node[]", "node[a-b]", "no de", "node[-3]", "node[[1]]"] {
            assert!(first_host(list).unwrap_err().to_string().contains("node list"), "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(list in "[a-c0-2\\[\\],\\-é ]{0,30}") {
            if let Ok(host) = first_host(&list) {
                prop_assert!(!host.is_empty() && !host.contains(['[', ']', ',', ' ']));
            }
        }

        #[test]
        fn the_first_of_a_range_is_found(prefix in "[a-z]{1,8}", first in 0u32..5000, last in 0u32..5000, width in 1usize..6) {
            let list = format!("{prefix}[{first:0width$}-{last:0width$},9],other");
            prop_assert_eq!(first_host(&list).unwrap(), format!("{prefix}{first:0width$}"));
        }
    }
}
