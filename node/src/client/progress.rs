//! Progress bars on standard error, silent under `--json` and where there is no terminal (then a
//! line now and then, so that a log shows that something goes on).

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Pause between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar over bytes.
pub(super) struct Bar {
    bar: ProgressBar,
    plain: Option<Plain>,
}

struct Plain {
    what: String,
    last: Instant,
}

impl Bar {
    /// A bar for `what`; `quiet` shows nothing at all.
    pub(super) fn new(what: &str, total: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        let plain = (!quiet && bar.is_hidden())
            .then(|| Plain { what: what.to_owned(), last: Instant::now() });
        Self { bar, plain }
    }

    /// A line beside the bar; nothing where the bar is silent.
    pub(super) fn say(&self, line: &str) {
        if self.plain.is_some() {
            #[allow(clippy::print_stderr, reason = "progress for people")]
            {
                eprintln!("{line}");
            }
        } else {
            // Writes nothing where the bar is hidden.
            self.bar.println(line);
        }
    }

    /// Moves the bar.
    pub(super) fn set(&mut self, what: &str, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.bar.message() != what {
            self.bar.set_message(what.to_owned());
        }
        if let Some(plain) = &mut self.plain
            && (plain.last.elapsed() >= LINE_EVERY || plain.what != what)
        {
            what.clone_into(&mut plain.what);
            plain.last = Instant::now();
            #[allow(clippy::print_stderr, reason = "progress for people")]
            {
                eprintln!("{what}: {done} of {total} bytes");
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
