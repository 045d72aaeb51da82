//! How large the cache may be: what is configured, less where the disk is short.

/// What bounds the cache's size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Never more.
    pub(super) ceiling: u64,
    /// Never less, however full the disk is.
    pub(super) floor: u64,
    /// What is to stay free on the disk.
    pub(super) headroom: u64,
}

/// What may be held, when `used` bytes are and `free` bytes of the disk are free.
pub(super) fn fitting(limits: Limits, used: u64, free: u64) -> u64 {
    let fits = used.saturating_add(free).saturating_sub(limits.headroom);
    fits.max(limits.floor).min(limits.ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { ceiling: 100, floor: 20, headroom: 10 };

    #[test]
    fn it_gives_way_to_others_on_the_disk_and_comes_back() {
        let at = |used, free| fitting(LIMITS, used, free);
        assert_eq!(at(0, 1000), 100);
        assert_eq!(at(100, 10), 100);
        // Others took four bytes of what was to stay free, then all, then gave 30 back.
        assert_eq!(at(100, 6), 96);
        assert_eq!(at(100, 0), 90);
        assert_eq!(at(90, 30), 100);
        // The floor is held though the disk is full.
        assert_eq!(at(15, 0), 20);
    }

    proptest! {
        #[test]
        fn it_stays_between_floor_and_ceiling_and_leaves_the_headroom(used: u64, free: u64) {
            let size = fitting(LIMITS, used, free);
            prop_assert!((20..=100).contains(&size));
            let left = u128::from(used) + u128::from(free);
            prop_assert!(size == 20 || u128::from(size) + 10 <= left);
        }
    }
}
