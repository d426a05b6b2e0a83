//! Decides who is answered: first by what the access lists say, then by the limiter, by what is known of the source, and by
//! the budget.

use crate::access::Access;
use crate::bucket::Bucket as _;
use crate::budget::{self, Rank};
use crate::known::{self, Path, Standing};
use crate::limiter::{self, BUDGET, Buckets, Class, Decision, KISS_DENIED, KNOWN, Policy, Ruling, Source};
use crate::message::Request;
use crate::sample::{self, Sample};
use crate::tries;
use crate::verdict::{Action, Family, Verdict};

/// How a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The UDP port that it came from.
    pub port: u16,
    /// The TTL or hop limit with which it arrived; 0 where it is not known.
    pub hops: u8,
    /// By which interface, VLAN and router, see [`crate::ethernet::ingress`]; 0 where it is not known.
    pub ingress: u8,
}

/// A client's request, as far as it matters for whether it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// What the lists say about the client.
    pub access: Access,
    /// The source whose bucket it draws from.
    pub source: Source,
    /// The protocol of its request.
    pub family: Family,
    /// Length of its answer's Ethernet frame; more than [`Self::MOST_BYTES`] count as that.
    pub answer_bytes: u16,
    /// How the request came.
    pub arrival: Arrival,
    /// Whether the request goes on to the socket, which decides about it once more.
    pub before_socket: bool,
    /// The NTP version of the request, 0 to 7.
    pub version: u8,
    /// Its poll field.
    pub poll: i8,
    /// Its transmit timestamp.
    pub transmit: [u8; 8],
    /// Whether it looks like a pool monitor's probe.
    pub is_probe: bool,
}

impl Client {
    /// The largest [`Self::answer_bytes`].
    pub const MOST_BYTES: usize = 0x3fff;

    /// Bits of the last of [`Self::to_words`] that are in use.
    pub const DETAIL_BITS: u32 = 62;

    /// Makes it from a request that is answered here.
    #[must_use]
    #[inline(always)]
    pub fn new(
        access: Access,
        source: Source,
        family: Family,
        answer_bytes: usize,
        request: Request,
    ) -> Self {
        let answer_bytes = if answer_bytes > Self::MOST_BYTES { Self::MOST_BYTES } else { answer_bytes };
        #[expect(clippy::cast_possible_truncation, reason = "at most 14 bits")]
        let answer_bytes = answer_bytes as u16;
        Self {
            access,
            source,
            family,
            answer_bytes,
            arrival: Arrival::default(),
            before_socket: false,
            version: request.version(),
            poll: request.poll(),
            transmit: request.transmit(),
            is_probe: request.is_probe(),
        }
    }

    /// Packs it into words, because a function of an eBPF program that is verified by itself takes nothing else, and no
    /// more than five.
    #[must_use]
    #[inline(always)]
    pub const fn to_words(self) -> [u64; 3] {
        let detail = self.arrival.port as u64
            | (self.arrival.hops as u64) << 16
            | (self.arrival.ingress as u64) << 24
            | (self.poll.cast_unsigned() as u64) << 32
            | (self.answer_bytes as u64 & Self::MOST_BYTES as u64) << 40
            | (self.version as u64 & 7) << 54
            | (self.access as u64) << 57
            | (self.family as u64) << 59
            | (self.before_socket as u64) << 60
            | (self.is_probe as u64) << 61;
        [self.source.to_bits(), u64::from_ne_bytes(self.transmit), detail]
    }

    /// The inverse of [`Self::to_words`].
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the word")]
    pub const fn from_words([source, transmit, detail]: [u64; 3]) -> Self {
        Self {
            access: Access::from_u32((detail >> 57) as u32 & 3),
            source: Source::from_bits(source),
            family: if detail >> 59 & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 },
            answer_bytes: (detail >> 40) as u16 & Self::MOST_BYTES as u16,
            arrival: Arrival {
                port: detail as u16,
                hops: (detail >> 16) as u8,
                ingress: (detail >> 24) as u8,
            },
            before_socket: detail >> 60 & 1 != 0,
            version: (detail >> 54) as u8 & 7,
            poll: ((detail >> 32) as u8).cast_signed(),
            transmit: transmit.to_ne_bytes(),
            is_probe: detail >> 61 & 1 != 0,
        }
    }

    /// Whether the lists deny the client, and it is told nothing: for such a request no clock need be read.
    #[must_use]
    #[inline(always)]
    pub const fn is_ignored(&self, policy: &Policy) -> bool {
        matches!(self.access, Access::Denied) && policy.options & KISS_DENIED == 0
    }

    /// The verdict on a request that came at `now_ns` of `CLOCK_MONOTONIC`, or 0 if [`Self::is_ignored`] and no clock was
    /// read. Where its action is to transmit, [`crate::message::Answer::admitted`] makes of the answer what the verdict
    /// says.
    #[must_use]
    #[inline(always)]
    pub fn admit<B: Buckets>(&self, buckets: &B, policy: &Policy, now_ns: u64) -> Verdict {
        match self.quickly(buckets, policy, now_ns) {
            Ok(verdict) => verdict,
            Err(ruling) => self.settle(buckets, policy, ruling, now_ns),
        }
    }

    /// The verdict on a request of 48 bytes about which there is nothing more to say: an ordinary one within its rate,
    /// while there is plenty for all, or one of a client that is ignored. It is kept apart from the rest, because this is
    /// what a server does all day.
    ///
    /// # Errors
    ///
    /// The limiter's ruling, for [`Self::settle`].
    #[inline(always)]
    pub fn quickly<B: Buckets>(&self, buckets: &B, policy: &Policy, now_ns: u64) -> Result<Verdict, Ruling> {
        let ruling = self.judge(buckets, policy, now_ns);
        if self.access == Access::Denied {
            let is_all = self.is_ignored(policy) && self.chosen(policy, &ruling, now_ns) == 0;
            return if is_all { Ok(Verdict::DropDenied) } else { Err(ruling) };
        }
        if ruling.decision != Decision::Answer
            || teaches(policy, &ruling, now_ns)
            || self.chosen(policy, &ruling, now_ns) != 0
        {
            return Err(ruling);
        }
        if policy.options & BUDGET != 0
            && let Some(allowance) = buckets.allowance()
        {
            let level = allowance.level(now_ns);
            if level < budget::PLENTY || ruling.owed() != 0 {
                return Err(ruling);
            }
            allowance.charge(self.answer_bytes.into(), now_ns);
        }
        Ok(Verdict::Answered)
    }

    /// The limiter's ruling on a request.
    #[inline(always)]
    pub fn judge<B: Buckets>(&self, buckets: &B, policy: &Policy, now_ns: u64) -> Ruling {
        let class = match self.access {
            Access::Ordinary => policy.ordinary,
            Access::Strict => policy.strict,
            Access::Unlimited => Class::UNLIMITED,
            Access::Denied => return Ruling::of_denied(policy.hash(self.source.to_bits())),
        };
        limiter::judge(buckets, policy, class, self.source, now_ns)
    }

    /// The verdict on a request after the limiter's ruling on it: what is known of the source, what becomes of requests
    /// over the rate, the order of sources when the budget is short, and what is reported.
    #[must_use]
    #[inline(always)]
    pub fn settle<B: Buckets>(&self, buckets: &B, policy: &Policy, ruling: Ruling, now_ns: u64) -> Verdict {
        if self.access == Access::Denied {
            return self.refuse(buckets, policy, &ruling, now_ns);
        }
        let (path, epoch) = (Path::new(self.arrival.hops, self.arrival.ingress), known::epoch(now_ns));
        let is_over = ruling.decision != Decision::Answer;
        // A source that owes something within its rate asks often: nothing is learnt of it, and it has no precedence.
        let set = if ruling.is_limited() && policy.options & KNOWN != 0 && (is_over || ruling.owed() == 0) {
            buckets.known(known::set_number(ruling.hash, policy.known_mask))
        } else {
            None
        };
        let found = match set {
            Some(set) => known::find(set, ruling.hash, epoch),
            None => None,
        };
        let standing = match found {
            Some((_, word)) => known::standing(word, path),
            None => Standing::Stranger,
        };

        let mut rank = match standing {
            _ if self.access == Access::Unlimited => Rank::Unlimited,
            Standing::Known | Standing::Usual if !is_over => Rank::Known,
            _ => Rank::Ordinary,
        };
        let mut verdict = Verdict::Answered;
        if is_over {
            verdict = Verdict::DropLimited;
            if standing == Standing::Usual
                && let Some((place, word)) = found
            {
                if let Some(drawn) = known::draw(word, now_ns) {
                    place.store(drawn);
                    verdict = Verdict::AnsweredKnown;
                    rank = Rank::Known;
                } else if policy.shares(now_ns, self.noise()) {
                    verdict = Verdict::AnsweredKnown;
                }
            }
            if verdict != Verdict::AnsweredKnown {
                verdict = match self.refused(buckets, policy, &ruling, now_ns) {
                    Decision::Answer | Decision::Leak => Verdict::Leaked,
                    Decision::Kiss => Verdict::KissRate,
                    Decision::Drop => Verdict::DropLimited,
                };
            }
        }

        let mut is_short = false;
        if policy.options & BUDGET != 0
            && !self.before_socket
            && verdict.action() == Action::Transmit
            && let Some(allowance) = buckets.allowance()
        {
            let level = allowance.level(now_ns);
            is_short = level < budget::PLENTY;
            if is_short && ruling.is_new && rank == Rank::Ordinary && policy.options & KNOWN != 0 {
                rank = match buckets.tries(known::set_number(ruling.hash, policy.known_mask)) {
                    Some(set) if tries::came_before(set, ruling.hash) => Rank::Newcomer,
                    Some(_) => Rank::Stranger,
                    None => Rank::Ordinary,
                };
            }
            if !allowance.admits(&ruling, rank, self.answer_bytes.into(), level, now_ns) {
                verdict = Verdict::DropBudget;
            }
        }

        if teaches(policy, &ruling, now_ns)
            && let Some(set) = set
        {
            match found {
                Some((place, word)) => {
                    let after = known::seen(word, path, now_ns);
                    if after != word {
                        place.store(after);
                    }
                }
                // A flood from random sources is not worth the memory.
                None if !is_short || rank != Rank::Stranger => {
                    known::remember(set, ruling.hash, path, now_ns);
                }
                None => {}
            }
        }
        self.report(buckets, policy, &ruling, standing, verdict, now_ns);
        verdict
    }

    /// The verdict on a request of a client that the lists deny.
    #[inline(always)]
    fn refuse<B: Buckets>(&self, buckets: &B, policy: &Policy, ruling: &Ruling, now_ns: u64) -> Verdict {
        let kisses = policy.options & KISS_DENIED != 0
            && !self.before_socket
            && limiter::may_kiss(buckets, policy, now_ns);
        let mut verdict = if kisses { Verdict::KissDeny } else { Verdict::DropDenied };
        if kisses
            && policy.options & BUDGET != 0
            && let Some(allowance) = buckets.allowance()
        {
            let level = allowance.level(now_ns);
            if !allowance.admits(ruling, Rank::Ordinary, self.answer_bytes.into(), level, now_ns) {
                verdict = Verdict::DropBudget;
            }
        }
        self.report(buckets, policy, ruling, Standing::Stranger, verdict, now_ns);
        verdict
    }

    /// What becomes of a request over the rate.
    #[inline(always)]
    fn refused<B: Buckets>(&self, buckets: &B, policy: &Policy, ruling: &Ruling, now_ns: u64) -> Decision {
        if !self.before_socket {
            return limiter::refused(
                buckets,
                policy,
                ruling,
                buckets.leak(policy.leak),
                now_ns,
                self.noise(),
            );
        }
        let [leak, _] = limiter::divided(policy.leak);
        if policy.leaks(leak, now_ns, self.noise()) { Decision::Leak } else { Decision::Drop }
    }

    #[inline(always)]
    fn report<B: Buckets>(
        &self,
        buckets: &B,
        policy: &Policy,
        ruling: &Ruling,
        standing: Standing,
        verdict: Verdict,
        now_ns: u64,
    ) {
        // The socket reports what gets there.
        if self.before_socket && verdict.action() == Action::Transmit {
            return;
        }
        let chosen = self.chosen(policy, ruling, now_ns);
        if chosen == 0 {
            return;
        }
        let of_standing = match standing {
            Standing::Stranger => 0,
            Standing::Known => sample::KNOWN,
            Standing::Usual => sample::KNOWN | sample::USUAL_PATH,
            Standing::Other => sample::KNOWN | sample::OTHER_PATH,
        };
        buckets.report(Sample {
            source: self.source.to_bits(),
            hash: ruling.hash,
            at_ns: now_ns,
            transmit: self.transmit,
            port: self.arrival.port,
            hops: self.arrival.hops,
            kind: chosen | of_standing | if ruling.evicted { sample::EVICTED } else { 0 },
            verdict: verdict as u8,
            family: self.family as u8,
            version: self.version,
            poll: self.poll,
        });
    }

    /// The kinds under which the request is reported; 0 for none.
    #[inline(always)]
    fn chosen(&self, policy: &Policy, ruling: &Ruling, now_ns: u64) -> u8 {
        let chosen = policy.chances.choose(ruling, now_ns ^ self.noise());
        if self.is_probe { chosen | sample::OF_PROBES } else { chosen }
    }

    /// Bits that differ from one request to the next, as the client chose them.
    #[inline(always)]
    const fn noise(&self) -> u64 {
        u64::from_ne_bytes(self.transmit)
    }
}

/// Four bits of a moment that are as good as random.
const ONE_IN_SIXTEEN: u64 = 0b11_1100_0000;

/// Whether a request may say anything new of its source: the first one in an epoch that finds its bucket full. Of a source
/// without a bucket it is not known whether it is the first one: it is taken for it. While there are more sources than
/// buckets, one in sixteen is, so that a flood from random sources does not have to wait for memory each time.
#[inline(always)]
const fn teaches(policy: &Policy, ruling: &Ruling, now_ns: u64) -> bool {
    if !ruling.is_limited() || policy.options & KNOWN == 0 {
        return false;
    }
    if ruling.is_new {
        return !ruling.is_crowded || now_ns & ONE_IN_SIXTEEN == 0;
    }
    matches!(ruling.decision, Decision::Answer)
        && ruling.owed() == 0
        && ruling.quiet_ns() > now_ns & known::EPOCH_MASK_NS
}
