//! Random draws that need no memory: a stream and a position give the numbers, in any order.

use rand_chacha::ChaCha12Rng;

/// The generator for one position (a training step, say) of a stream.
///
/// ChaCha numbers its streams by a 64-bit word, so positions never overlap and nothing has to be saved to resume.
#[must_use]
pub fn stream_at(stream: &ChaCha12Rng, position: u64) -> ChaCha12Rng {
    let mut rng = stream.clone();
    rng.set_stream(position);
    rng.set_word_pos(0);
    rng
}
