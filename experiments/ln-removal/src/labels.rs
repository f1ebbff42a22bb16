//! Labels of the token positions of a set of prompts: the token that all prompts share, or the role of the word there.

use crate::ioi_prompts::Prompt;

/// Gives the word of a prompt that has a certain role.
type Role = fn(&Prompt) -> &str;

/// A label for each token position, such as `2 and` or `5 name 2`: the role whose word is there in every prompt,
/// otherwise the token if all prompts share it.
///
/// `texts[i][p]` is the token at position p of prompt i, as text.
pub fn labels(prompts: &[Prompt], texts: &[Vec<String>]) -> Vec<String> {
    let roles: [(&str, Role); 5] = [
        ("name 1", |prompt| &prompt.first),
        ("name 2", |prompt| &prompt.second),
        ("S2", Prompt::subject),
        ("place", |prompt| &prompt.place),
        ("object", |prompt| &prompt.object),
    ];
    let positions = texts.first().map_or(0, Vec::len);
    let label = |position: usize| {
        let words = || texts.iter().map(|text| text[position].trim());
        let first = words().next().unwrap_or_default();
        let role = roles.iter().find(|(_, of)| words().zip(prompts).all(|(word, prompt)| word == of(prompt)));
        match role {
            Some((name, _)) => format!("{position} {name}"),
            None if words().all(|word| word == first) => format!("{position} {}", display(first)),
            None => format!("{position} …"),
        }
    };
    (0..positions).map(label).collect()
}

/// The display form of a token: `BOS` for a beginning-of-text token.
fn display(token: &str) -> &str {
    match token {
        "<|endoftext|>" | "<s>" | "<|begin_of_text|>" | "<bos>" => "BOS",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_tokens_are_labels_and_other_positions_get_a_role() {
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
