//! What stands at each place of a set of prompts: a word that all share, or the part that a word plays.

use crate::ioi_prompts::Prompt;

/// The word of a prompt that plays a part.
type Part = fn(&Prompt) -> &str;

/// A label for each place, such as `2 and` or `5 name 2`: the token where all prompts have the same, else the part whose
/// word it is in every prompt.
///
/// `texts[i][p]` is the token at place p of prompt i as text.
pub fn labels(prompts: &[Prompt], texts: &[Vec<String>]) -> Vec<String> {
    let parts: [(&str, Part); 5] = [
        ("name 1", |prompt| &prompt.first),
        ("name 2", |prompt| &prompt.second),
        ("S2", Prompt::subject),
        ("place", |prompt| &prompt.place),
        ("object", |prompt| &prompt.object),
    ];
    let places = texts.first().map_or(0, Vec::len);
    let label = |place: usize| {
        let words = || texts.iter().map(|text| text[place].trim());
        let first = words().next().unwrap_or_default();
        let part = parts.iter().find(|(_, of)| words().zip(prompts).all(|(word, prompt)| word == of(prompt)));
        match part {
            Some((name, _)) => format!("{place} {name}"),
            None if words().all(|word| word == first) => format!("{place} {}", shown(first)),
            None => format!("{place} …"),
        }
    };
    (0..places).map(label).collect()
}

/// A special token without its brackets.
fn shown(token: &str) -> &str {
    match token {
        "<|endoftext|>" | "<s>" | "<|begin_of_text|>" | "<bos>" => "BOS",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_words_are_themselves_and_others_are_parts() {
        let prompt = |first: &str, second: &str, repeats_first: bool| Prompt {
            first: first.to_owned(),
            second: second.to_owned(),
            repeats_first,
            place: "shop".to_owned(),
            object: "pen".to_owned(),
        };
        let prompts = [prompt("Ann", "Bob", true), prompt("Ann", "Bob", false), prompt("Cleo", "Ann", true)];
        let texts = prompts.each_ref().map(|p| {
            ["<|endoftext|>", &p.first, " and", &p.second, " met", p.subject()].map(|word| format!(" {word}")).to_vec()
        });
        assert_eq!(labels(&prompts, &texts), ["0 BOS", "1 name 1", "2 and", "3 name 2", "4 met", "5 S2"]);
        assert!(labels(&[], &[]).is_empty());
    }
}
