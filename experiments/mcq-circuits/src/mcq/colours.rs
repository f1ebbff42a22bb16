//! Plain English questions with the answer in the prompt: the colour of a thing.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{Order, Question, Separators, letters};

/// Common colours, each a single token for most models (arXiv 2407.15018 uses the same eleven).
const COLOURS: [&str; 11] =
    ["black", "orange", "brown", "white", "blue", "pink", "grey", "purple", "red", "yellow", "green"];

/// Things that may have any colour.
const THINGS: [&str; 104] = [
    "apron", "bag", "balloon", "banner", "basket", "bead", "bed", "bell", "belt", "bench", "bicycle", "blanket",
    "boat", "book", "boot", "bottle", "bowl", "box", "bracelet", "brick", "brush", "bucket", "bus", "button", "candle",
    "cap", "car", "card", "carpet", "cart", "chair", "cloak", "coat", "comb", "cord", "couch", "crayon", "cup",
    "curtain", "cushion", "desk", "dice", "dish", "door", "dress", "drum", "fan", "feather", "fence", "flag", "folder",
    "fork", "frame", "glove", "guitar", "hammer", "hat", "helmet", "jacket", "jar", "jug", "kettle", "key", "kite",
    "lamp", "ladder", "lantern", "mask", "mat", "mirror", "mug", "napkin", "necklace", "needle", "net", "notebook",
    "paddle", "pen", "pencil", "pillow", "pipe", "plate", "pot", "purse", "ribbon", "ring", "robe", "rope", "rug",
    "scarf", "shelf", "shirt", "shoe", "skirt", "spoon", "stool", "suitcase", "sweater", "table", "tent", "towel",
    "toy", "vase", "wagon",
];

/// A question that states its answer first, with `options` different colours (at most eleven) and the right one at
/// index `correct`.
pub fn colours(options: usize, correct: usize, rng: &mut impl Rng) -> Question {
    let thing = THINGS.choose(rng).copied().unwrap_or(THINGS[0]);
    let mut chosen: Vec<&str> = COLOURS.choose_multiple(rng, options).copied().collect();
    chosen.shuffle(rng);
    let right = chosen[correct.min(chosen.len() - 1)];
    Question {
        prelude: String::new(),
        question: format!("The {thing} is {right}. Which color is the {thing}?"),
        options: chosen.iter().map(|colour| (*colour).to_owned()).collect(),
        labels: letters(options),
        correct,
        separators: Separators::Brackets,
        order: Order::QuestionFirst,
        blank_before: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;

    #[test]
    fn the_right_colour_is_stated_and_at_the_requested_index() {
        assert_eq!(THINGS.iter().collect::<BTreeSet<_>>().len(), THINGS.len());
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        for correct in [0, 3] {
            let question = colours(4, correct, &mut rng);
            assert!(question.question.contains(&format!(" is {}.", question.options[correct])));
            assert_eq!(question.options.iter().collect::<BTreeSet<_>>().len(), 4);
        }
    }
}
