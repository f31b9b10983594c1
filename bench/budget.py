"""The promises of budget.toml, and whether what was measured keeps them."""

import pathlib
import statistics
import tomllib

FILE = pathlib.Path(__file__).with_name("budget.toml")
KEYS = {"name": str, "what": str, "how": str, "unit": str, "most": (int, float), "least": (int, float),
        "stretch": (int, float), "against": str, "steady": bool, "peer": bool}
REQUIRED = ("name", "what", "how", "unit")


class Row:
    """One promise."""

    def __init__(self, table):
        missing = [key for key in REQUIRED if key not in table]
        wrong = [key for key, value in table.items() if not isinstance(value, KEYS.get(key, ()))]
        if missing or wrong or ("most" in table and "least" in table):
            raise ValueError(f"{FILE.name}: {table.get('name', 'a row')}: missing {missing}, wrong {wrong}, or two limits")
        self.name, self.what, self.how, self.unit = (table[key] for key in REQUIRED)
        self.most, self.least, self.stretch = (table.get(key) for key in ("most", "least", "stretch"))
        self.against = table.get("against")
        self.steady, self.peer = table.get("steady", False), table.get("peer", False)
        self.group = self.name.split(".")[0]

    def limit_text(self):
        """The limit as the tables show it."""
        if self.most is None and self.least is None:
            return "–"
        sign, limit = ("≤", self.most) if self.least is None else ("≥", self.least)
        goal = "" if self.stretch is None else f" (goal {self.stretch:g})"
        return f"{sign} {with_unit(f'{limit:g}', self.unit)}{goal}"


class Result:
    """What was measured for a row: one value for each round, and the figures behind them."""

    def __init__(self, row, values, detail="", trouble=None):
        self.row, self.values, self.detail, self.trouble = row, list(values), detail, trouble

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    @property
    def verdict(self):
        """`pass`, `FAIL` or `reported`. Only a range that lies wholly beyond the limit fails."""
        row = self.row
        if self.trouble or not self.values:
            return "FAIL"
        if row.most is not None:
            return "pass" if min(self.values) <= row.most else "FAIL"
        if row.least is not None:
            return "pass" if max(self.values) >= row.least else "FAIL"
        return "reported"

    def value_text(self):
        """The median, with its range when there are several rounds."""
        if self.trouble:
            return f"not measured: {self.trouble}"
        unit = self.row.unit
        text = with_unit(number(self.median), unit)
        if len(self.values) > 1:
            text += f" ({number(min(self.values))}–{number(max(self.values))})"
        return text

    def as_json(self):
        row = self.row
        return {"name": row.name, "what": row.what, "how": row.how, "unit": row.unit, "most": row.most,
                "least": row.least, "stretch": row.stretch, "against": row.against, "steady": row.steady,
                "values": self.values, "median": self.median, "detail": self.detail, "trouble": self.trouble,
                "verdict": self.verdict}


def number(value):
    """With as many places as tell something."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    places = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{places}f}"


def with_unit(text, unit):
    """A number with its unit."""
    return f"{text} {unit}".strip()


def load():
    """All rows of budget.toml, in its order, by name."""
    rows = [Row(table) for table in tomllib.loads(FILE.read_text())["row"]]
    by_name = {row.name: row for row in rows}
    if len(by_name) != len(rows):
        raise ValueError(f"{FILE.name}: two rows of one name")
    return by_name
