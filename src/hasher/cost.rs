//! What a hash costs, as its PHC string says, and which of them this server takes on.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};

/// Most memory times passes of a stored hash, in KiB: some two seconds. Only a mistake asks for
/// more, and the one who logs in would be told to try again for ever.
const WORK_KIB_MAX: u64 = 4 << 20;

/// Kind and parameters of an Argon2 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    algorithm: Algorithm,
    version: Version,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// How new hashes are made: RFC 9106's Argon2id with the first choice of OWASP's list.
    pub const TODAY: Self = Self {
        algorithm: Algorithm::Argon2id,
        version: Version::V0x13,
        memory_kib: 19_456,
        passes: 2,
        lanes: 1,
    };

    /// The cost that a PHC string states; its salt and hash may be missing
    /// (`$argon2id$v=19$m=65536,t=3,p=4`). `None` if it is no such string.
    pub fn parse(phc: &str) -> Option<Self> {
        let phc = PasswordHash::new(phc).ok()?;
        Self::of(&phc, &Params::try_from(&phc).ok()?)
    }

    fn of(phc: &PasswordHash, params: &Params) -> Option<Self> {
        Some(Self {
            algorithm: Algorithm::new(phc.algorithm).ok()?,
            // Strings from before there were versions name none; so the reference reads them.
            version: phc
                .version
                .map_or(Ok(Version::V0x10), Version::try_from)
                .ok()?,
            memory_kib: params.m_cost(),
            passes: params.t_cost(),
            lanes: params.p_cost(),
        })
    }

    /// Which cost an identifier that no user has is met with, so that the unknown are as slow as
    /// the known while hashes of several costs are stored.
    ///
    /// `mix` says how many stored hashes there are of each cost; `tag` is the identifier's HMAC,
    /// so that the same identifier gets the same cost each time and nobody can tell which. With
    /// nothing stored it is [`TODAY`](Self::TODAY).
    pub fn dummy(mix: &[(Self, u64)], tag: &[u8; 32]) -> Self {
        let total: u64 = mix.iter().map(|(_, count)| count).sum();
        let start = tag.first_chunk().expect("32 bytes hold 8");
        // Spreads the tags evenly over 0..total.
        let scaled = (u128::from(u64::from_be_bytes(*start)) * u128::from(total)) >> 64;
        let mut left = u64::try_from(scaled).expect("it is below the total");
        for (cost, count) in mix {
            match left.checked_sub(*count) {
                Some(less) => left = less,
                None => return *cost,
            }
        }
        Self::TODAY
    }

    /// Bytes of the blocks that such a hash is computed in.
    pub fn bytes(self) -> usize {
        self.memory_kib as usize * argon2::Block::SIZE
    }

    /// Whether a hash of this cost fits into so much memory and into a reasonable time.
    pub fn fits(self, memory_max: usize) -> bool {
        self.bytes() <= memory_max
            && u64::from(self.memory_kib) * u64::from(self.passes) <= WORK_KIB_MAX
    }

    /// The function that computes such hashes.
    pub(super) fn argon2(self) -> Argon2<'static> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, None);
        let params = params.expect("a cost comes from valid parameters");
        Argon2::new(self.algorithm, self.version, params)
    }
}

/// As the string begins: `$argon2id$v=19$m=19456,t=2,p=1`.
impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (algorithm, version) = (self.algorithm.as_str(), u32::from(self.version));
        let (m, t, p) = (self.memory_kib, self.passes, self.lanes);
        write!(f, "${algorithm}$v={version}$m={m},t={t},p={p}")
    }
}

/// A stored hash, taken apart.
pub(super) struct Parsed {
    pub(super) cost: Cost,
    pub(super) argon2: Argon2<'static>,
    phc: PasswordHash,
}

/// Why a stored hash cannot be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// No Argon2 string.
    Malformed,
    /// One that asks for more than this server gives.
    TooLarge(Cost),
}

impl Parsed {
    pub(super) fn new(phc: &str, memory_max: usize) -> Result<Self, Unusable> {
        let phc = PasswordHash::new(phc).map_err(|_| Unusable::Malformed)?;
        let params = Params::try_from(&phc).map_err(|_| Unusable::Malformed)?;
        let cost = Cost::of(&phc, &params).ok_or(Unusable::Malformed)?;
        let salt = phc.salt.as_deref().map_or(0, <[u8]>::len);
        if salt < argon2::MIN_SALT_LEN || phc.hash.is_none() {
            return Err(Unusable::Malformed);
        }
        if !cost.fits(memory_max) {
            return Err(Unusable::TooLarge(cost));
        }
        let argon2 = Argon2::new(cost.algorithm, cost.version, params);
        Ok(Self { cost, argon2, phc })
    }

    pub(super) fn salt(&self) -> &[u8] {
        self.phc.salt.as_deref().expect("checked by new")
    }

    pub(super) fn output(&self) -> &[u8] {
        self.phc.hash.as_ref().expect("checked by new").as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "$argon2id$v=19$m=65536,t=3,p=4";
    const MEMORY_MAX: usize = 19 << 20;

    #[test]
    fn a_cost_is_read_and_written_alike() {
        for text in [
            OLD,
            "$argon2i$v=16$m=8,t=1,p=1",
            "$argon2d$v=19$m=64,t=9,p=8",
        ] {
            let cost = Cost::parse(text).expect(text);
            assert_eq!(cost.to_string(), text);
        }
        assert_eq!(
            Cost::parse("$argon2id$v=19$m=19456,t=2,p=1"),
            Some(Cost::TODAY)
        );
        assert_eq!(
            Cost::parse("$argon2i$m=8,t=1,p=1"),
            Cost::parse("$argon2i$v=16$m=8,t=1,p=1")
        );
        for text in [
            "",
            "x",
            "$2b$12$abc",
            "$argon2id$v=20$m=8,t=1,p=1",
            "$argon2id$v=19$m=8,t=0,p=1",
        ] {
            assert_eq!(Cost::parse(text), None, "{text}");
        }
        assert_eq!(Cost::TODAY.bytes(), 19 << 20);
    }

    #[test]
    fn what_cannot_be_verified_is_told_apart() {
        let salt = "c29tZXNhbHQ";
        let output = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let unusable = |text: &str| Parsed::new(text, MEMORY_MAX).err();
        let whole = |cost: &str| format!("{cost}${salt}${output}");
        assert_eq!(unusable(&whole("$argon2id$v=19$m=19456,t=2,p=1")), None);
        assert_eq!(unusable(&whole("$argon2i$m=19456,t=50,p=16")), None);
        for cost in [
            "$argon2id$v=19$m=19457,t=1,p=1",
            OLD,
            "$argon2id$v=19$m=4294967295,t=4294967295,p=16777215",
            "$argon2id$v=19$m=8,t=4294967295,p=1",
        ] {
            let cost = Cost::parse(cost).expect(cost);
            assert_eq!(
                unusable(&whole(&cost.to_string())),
                Some(Unusable::TooLarge(cost))
            );
        }
        let mut malformed = vec![
            String::new(),
            OLD.to_owned(),
            format!("{OLD}${salt}"),
            // A salt of 7 bytes, and no base64.
            format!("{OLD}$c29tZXNhbA${output}"),
            format!("{OLD}$c29tZXNh!HQ${output}"),
            whole("$scrypt$ln=1,r=8,p=1"),
            whole("$argon2id$v=19$m=7,t=1,p=1"),
            whole("$argon2id$v=19$m=64,t=1,p=9"),
            whole("$argon2id$v=19$m=99999999999,t=1,p=1"),
            "$".repeat(10_000),
            "\0é".repeat(1000),
        ];
        malformed.push(format!(" {}", whole(OLD)));
        for text in malformed {
            assert_eq!(unusable(&text), Some(Unusable::Malformed), "{text}");
        }
    }

    #[test]
    fn dummies_follow_the_mix() {
        let old = Cost::parse(OLD).expect("it is a cost");
        let tag = |n: u64| {
            *ring::digest::digest(&ring::digest::SHA256, &n.to_be_bytes())
                .as_ref()
                .first_chunk()
                .expect("32 bytes")
        };
        let share = |mix: &[(Cost, u64)]| {
            (0..4000)
                .filter(|n| Cost::dummy(mix, &tag(*n)) == old)
                .count()
        };
        assert_eq!(Cost::dummy(&[], &[255; 32]), Cost::TODAY);
        assert_eq!(share(&[(old, 0), (Cost::TODAY, 5)]), 0);
        assert_eq!(share(&[(old, u64::from(u32::MAX)), (Cost::TODAY, 0)]), 4000);
        let third = share(&[(Cost::TODAY, 200), (old, 100)]);
        assert!((1200..1470).contains(&third), "{third} of 4000");
        for edge in [[0; 32], [255; 32]] {
            assert_eq!(Cost::dummy(&[(old, 1)], &edge), old);
        }
    }
}
