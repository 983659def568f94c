"""Every variant that was tried, by name: (options, engine)."""

from __future__ import annotations

from dataclasses import replace

from sim import Engine, Options

REC = Options()
K128 = replace(REC, neighbors=128)
VARIANTS: dict[str, tuple[Options, type[Engine]]] = {
    "rec": (REC, Engine),
    "k128": (K128, Engine),
    "k64": (replace(REC, neighbors=64), Engine),
    "k32": (replace(REC, neighbors=32), Engine),
}
for x in (0.15, 0.3, 0.6):
    VARIANTS[f"p{x}"] = (replace(K128, p_power=x), Engine)
    VARIANTS[f"pr{x}"] = (replace(K128, p_power=x, p_power_recall=x), Engine)
for x in (0.3, 1.0, 3.0):
    VARIANTS[f"vote{x}"] = (replace(K128, vote=x), Engine)
    VARIANTS[f"voter{x}"] = (replace(K128, vote=x, vote_on="recall"), Engine)
for x in (1, 3):
    VARIANTS[f"replay{x}"] = (replace(K128, replay=x), Engine)
    VARIANTS[f"replayr{x}"] = (replace(K128, replay=x, replay_near=False), Engine)
for e in (0.4, 0.9, 1.3):
    VARIANTS[f"eta{e}"] = (replace(K128, eta=e), Engine)
for e in (0.1, 0.3, 0.4):
    VARIANTS[f"w{e}"] = (replace(K128, w=e), Engine)
for e in (0.1, 0.15, 0.3):
    VARIANTS[f"ha{e}"] = (replace(K128, h_a=e), Engine)
for e in (0.03, 0.08):
    VARIANTS[f"hr{e}"] = (replace(K128, h_r=e), Engine)
for e in (0.05, 0.07, 0.15):
    VARIANTS[f"tau{e}"] = (replace(K128, tau=e), Engine)
for v in (0.0, 1.0):
    for e in (0.6, 0.8, 1.0):
        tag = f"v{v:.0f}e{e}"
        o = replace(K128, vote=v, eta=e)
        VARIANTS[f"{tag}"] = (o, Engine)
        VARIANTS[f"{tag}p.15"] = (replace(o, p_power=0.15), Engine)
        VARIANTS[f"{tag}p.3"] = (replace(o, p_power=0.3), Engine)
        for t in (0.05, 0.1):
            VARIANTS[f"{tag}em{t}"] = (replace(o, em=True, em_tau=t), Engine)
            VARIANTS[f"{tag}emr{t}"] = (replace(o, em=True, em_tau=t, em_recall=True), Engine)
EM = replace(K128, eta=0.8, em=True)
EV = replace(EM, gate="evidence")
VARIANTS |= {
    "em": (EM, Engine),
    "ev0": (replace(K128, gate="evidence"), Engine),
    "ev": (EV, Engine),
    "ev.weigh": (replace(EV, weigh=True), Engine),
    "ev.share": (replace(EV, weigh=True, nu_mode="share"), Engine),
    "ev.share.z2": (replace(EV, weigh=True, nu_mode="share", z=2.0), Engine),
    "ev.z2": (replace(EV, weigh=True, z=2.0), Engine),
    "ev.soft": (replace(EV, weigh=True, soft=True), Engine),
    "ev.others2": (replace(EV, weigh=True, others=2), Engine),
}
for b, lam in ((0.05, 0.5), (0.1, 0.5), (0.1, 1.0), (0.2, 0.5), (0.2, 1.0)):
    VARIANTS[f"fix{b},{lam}"] = (replace(EV, weigh=True, start_arm=(b, lam), fixed=True), Engine)
    VARIANTS[f"start{b},{lam}"] = (replace(EV, weigh=True, start_arm=(b, lam)), Engine)
    VARIANTS[f"start{b},{lam}.share"] = (
        replace(EV, weigh=True, start_arm=(b, lam), nu_mode="share"),
        Engine,
    )
for b in (0.1, 0.2, 0.3, 0.4):
    o = replace(EV, weigh=True, start_arm=(b, 0.5), relative=True)
    VARIANTS[f"relfix{b}"] = (replace(o, fixed=True), Engine)
    VARIANTS[f"rel{b}"] = (o, Engine)
    VARIANTS[f"rel{b}.z2"] = (replace(o, z=2.0), Engine)
for b in (0.05, 0.1):
    VARIANTS[f"start{b}.z2"] = (replace(EV, weigh=True, start_arm=(b, 0.5), z=2.0), Engine)
    VARIANTS[f"start{b}.z1"] = (replace(EV, weigh=True, start_arm=(b, 0.5), z=1.0), Engine)
NEW = replace(EV, weigh=True, start_arm=(0.1, 0.5), z=2.0)
VARIANTS |= {
    "new": (NEW, Engine),
    "new.soft": (replace(NEW, soft=True), Engine),
    "new.proof.5": (replace(NEW, proof=0.5), Engine),
    "new.nu.3": (replace(NEW, nu=0.3), Engine),
    "new.vote": (replace(NEW, vote=1.0), Engine),
    "new.eta.6": (replace(NEW, eta=0.6), Engine),
    "new.noem": (replace(NEW, eta=0.6, em=False), Engine),
}
VARIANTS["final"] = (replace(NEW, soft=True, em_recall=True), Engine)
VARIANTS["final.hard"] = (replace(NEW, em_recall=True), Engine)
VARIANTS["final.05"] = (replace(NEW, soft=True, em_recall=True, start_arm=(0.05, 0.5)), Engine)
VARIANTS["final.em.05"] = (replace(VARIANTS["final"][0], em_tau=0.05), Engine)
VARIANTS["final.noem"] = (replace(VARIANTS["final"][0], em=False, eta=0.6), Engine)
VARIANTS["final.rec"] = (replace(EM, em_recall=True), Engine)
FINAL = VARIANTS["final"][0]
for tag, more in {
    "c1": {"cover_full": 1.0},
    "c.5": {"cover_full": 0.5},
    "c.5start": {"cover_full": 0.5, "cover_on": "start"},
    "c.5req": {"cover_full": 0.5, "cover_request": True},
}.items():
    VARIANTS[tag] = (replace(FINAL, cover="clicked", **more), Engine)
VARIANTS["final.nu.3"] = (replace(FINAL, nu=0.3), Engine)
SHIPPED = replace(FINAL, cover="clicked", cover_full=0.5, nu=0.3)
for tag, more in {
    "": {},
    ".start": {"cover_on": "start"},
    ".nu.4": {"nu": 0.4},
    ".em.07": {"em_tau": 0.07},
    ".em.05": {"em_tau": 0.05},
    ".w.3": {"w": 0.3},
    ".hr.08": {"h_r": 0.08},
    ".ha.3": {"h_a": 0.3},
    ".eta.6": {"eta": 0.6},
    ".eta1": {"eta": 1.0},
    ".tau.07": {"tau": 0.07},
    ".top100": {"top": 100},
    ".top200": {"top": 200},
}.items():
    VARIANTS[f"shipped{tag}"] = (replace(SHIPPED, **more), Engine)
