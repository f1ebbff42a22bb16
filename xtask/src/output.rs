//! Writes to standard output.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints one line to standard output.
///
/// A reader that closes the pipe early, as in `cargo xtask list | head -1`, is not an error: the line is dropped.
///
/// # Errors
/// When standard output cannot be written for any other reason, such as a full disk.
pub fn print_line(line: Arguments<'_>) -> Result<()> {
    write_line(&mut io::stdout(), line).context("cannot write to standard output")
}

fn write_line(out: &mut impl Write, line: Arguments<'_>) -> io::Result<()> {
    match writeln!(out, "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that always fails.
    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_not_an_error_and_a_full_disk_is() {
        let mut text = Vec::new();
        write_line(&mut text, format_args!("a {}", 1)).unwrap();
        assert_eq!(text, b"a 1\n");
        write_line(&mut Failing(ErrorKind::BrokenPipe), format_args!("a")).unwrap();
        assert!(write_line(&mut Failing(ErrorKind::StorageFull), format_args!("a")).is_err());
    }
}
