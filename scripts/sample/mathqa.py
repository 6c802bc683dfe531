"""MathQA-like rows: arithmetic word problems whose answers and wrong options are computed.

A problem is one formula. From it come the value, the nested and the linear form of the formula,
and the working shown in the rationale; typical mistakes are formulas too. `n0`, `n1`, ... are the
numbers of the problem in the order in which they appear in its text.
"""

import ast
import math
import random
from dataclasses import dataclass
from fractions import Fraction

from sample.common import Row, Splits

SIZES = {"train": 400, "validation": 100, "test": 120}
LIST_LIKE = 0.03  # share of rows whose options are written as a list, as in the original

NAMES = "ana ben carla dev elif farid grace hugo ines jonas kim lena marco nora omar petra"
THINGS = "notebooks pens mugs cards lamps plants kites caps books bowls"
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "^"}


@dataclass(frozen=True)
class Problem:
    """A kind of problem; `ranges` holds (lowest, highest, step) for each of its numbers."""

    category: str
    text: str
    ranges: list[tuple[int, int, int]]
    formula: str
    mistakes: list[str]
    unit: str = "{}"
    lead: str = "answer"


PROBLEMS = [
    Problem(
        "general",
        "{p} buys {0} {things} for $ {1} each and pays with $ {2} . how much change is due ?",
        [(2, 9, 1), (2, 12, 1), (50, 150, 10)],
        "subtract(n2, multiply(n0, n1))",
        ["multiply(n0, n1)", "subtract(n2, add(n0, n1))", "subtract(n2, n1)"],
        "$ {}",
        "change",
    ),
    Problem(
        "general",
        "a hall has {0} rows of {1} chairs . if {2} chairs are broken , how many can be used ?",
        [(5, 20, 1), (6, 25, 1), (3, 30, 1)],
        "subtract(multiply(n0, n1), n2)",
        ["multiply(n0, n1)", "add(multiply(n0, n1), n2)", "subtract(add(n0, n1), n2)"],
        lead="usable chairs",
    ),
    Problem(
        "general",
        "the average of {0} numbers is {1} . if {2} joins them , what is the new average ?",
        [(3, 9, 1), (8, 30, 1), (10, 60, 1)],
        "divide(add(multiply(n0, n1), n2), add(n0, const_1))",
        ["divide(add(n1, n2), const_2)", "divide(add(multiply(n0, n1), n2), n0)", "add(n1, n2)"],
        lead="new average",
    ),
    Problem(
        "general",
        "a box holds {0} {things} . how many boxes are needed for {1} {things} ?",
        [(4, 24, 1), (48, 480, 12)],
        "divide(n1, n0)",
        ["subtract(n1, n0)", "add(divide(n1, n0), const_1)", "divide(n1, const_2)"],
        lead="boxes",
    ),
    Problem(
        "general",
        "the sum of two numbers is {0} and their difference is {1} . what is the larger number ?",
        [(20, 120, 1), (2, 40, 1)],
        "divide(add(n0, n1), const_2)",
        ["divide(subtract(n0, n1), const_2)", "add(n0, n1)", "subtract(n0, n1)"],
        lead="larger number",
    ),
    Problem(
        "general",
        "{0} % of the {1} pupils of a school are girls . how many boys are there ?",
        [(30, 70, 5), (200, 800, 20)],
        "subtract(n1, divide(multiply(n0, n1), const_100))",
        ["divide(multiply(n0, n1), const_100)", "subtract(n1, n0)", "divide(n1, const_2)"],
        lead="boys",
    ),
    Problem(
        "general",
        "{p} is {0} years old and {q} is {1} years older . what will be the sum of their ages in {2} years ?",
        [(5, 30, 1), (2, 12, 1), (2, 10, 1)],
        "add(add(n0, add(n0, n1)), multiply(const_2, n2))",
        ["add(n0, add(n0, n1))", "add(add(n0, add(n0, n1)), n2)", "add(add(n0, n1), n2)"],
        lead="sum",
    ),
    Problem(
        "general",
        "{p} reads {0} pages a day . how many days does a book of {1} pages take if {2} pages "
        "are already read ?",
        [(8, 30, 1), (120, 400, 10), (20, 60, 4)],
        "divide(subtract(n1, n2), n0)",
        ["divide(add(n1, n2), n0)", "divide(n1, n0)", "subtract(n1, n2)"],
        lead="days",
    ),
    Problem(
        "physics",
        "a train runs at {0} km / h . how far does it get in {1} hours ?",
        [(40, 120, 4), (2, 12, 1)],
        "multiply(n0, n1)",
        ["divide(n0, n1)", "add(n0, n1)", "multiply(n0, subtract(n1, const_1))"],
        "{} km",
        "distance",
    ),
    Problem(
        "physics",
        "a car covers {0} km in {1} hours . how far does it get in {2} hours at that speed ?",
        [(100, 480, 20), (2, 6, 1), (3, 11, 1)],
        "multiply(divide(n0, n1), n2)",
        ["multiply(n0, n2)", "divide(n0, n1)", "multiply(divide(n0, n2), n1)"],
        "{} km",
        "distance",
    ),
    Problem(
        "physics",
        "{0} workers build a wall in {1} days . how many days would {2} workers take ?",
        [(3, 16, 1), (4, 24, 1), (2, 12, 1)],
        "divide(multiply(n0, n1), n2)",
        ["divide(multiply(n1, n2), n0)", "multiply(n0, n1)", "add(n1, subtract(n0, n2))"],
        "{} days",
        "time",
    ),
    Problem(
        "physics",
        "a train {0} m long crosses a bridge {1} m long at {2} m / s . how many seconds does it take ?",
        [(100, 300, 20), (150, 600, 10), (10, 30, 5)],
        "divide(add(n0, n1), n2)",
        ["divide(n1, n2)", "divide(n0, n2)", "divide(subtract(n1, n0), n2)"],
        "{} sec",
        "time",
    ),
    Problem(
        "physics",
        "a boat makes {0} km / h downstream and {1} km / h upstream . what is the speed of the stream ?",
        [(12, 40, 1), (4, 20, 1)],
        "divide(subtract(n0, n1), const_2)",
        ["divide(add(n0, n1), const_2)", "subtract(n0, n1)", "add(n0, n1)"],
        "{} km / h",
        "speed",
    ),
    Problem(
        "physics",
        "a tap adds {0} liters a minute to a tank and a leak takes {1} away . how many minutes "
        "does it take to fill {2} liters ?",
        [(10, 40, 1), (2, 9, 1), (100, 600, 10)],
        "divide(n2, subtract(n0, n1))",
        ["divide(n2, add(n0, n1))", "divide(n2, n0)", "divide(n2, n1)"],
        "{} min",
        "time",
    ),
    Problem(
        "gain",
        "find the simple interest on $ {0} at {1} % per year for {2} years .",
        [(200, 2000, 50), (2, 12, 1), (2, 6, 1)],
        "divide(multiply(multiply(n0, n1), n2), const_100)",
        ["divide(multiply(n0, n1), const_100)", "multiply(n1, n2)", "divide(n0, n2)"],
        "$ {}",
        "interest",
    ),
    Problem(
        "gain",
        "a trader buys a lamp for $ {0} and sells it at a profit of {1} % . what is the price ?",
        [(40, 400, 10), (5, 60, 5)],
        "add(n0, divide(multiply(n0, n1), const_100))",
        [
            "divide(multiply(n0, n1), const_100)",
            "add(n0, n1)",
            "subtract(n0, divide(multiply(n0, n1), const_100))",
        ],
        "$ {}",
        "price",
    ),
    Problem(
        "gain",
        "a coat marked $ {0} is sold at a discount of {1} % . what does the buyer pay ?",
        [(40, 400, 10), (5, 60, 5)],
        "subtract(n0, divide(multiply(n0, n1), const_100))",
        [
            "divide(multiply(n0, n1), const_100)",
            "subtract(n0, n1)",
            "add(n0, divide(multiply(n0, n1), const_100))",
        ],
        "$ {}",
        "price",
    ),
    Problem(
        "gain",
        "{p} buys a bike for $ {0} and sells it for $ {1} . what is the profit in percent ?",
        [(50, 400, 10), (60, 600, 4)],
        "multiply(divide(subtract(n1, n0), n0), const_100)",
        [
            "subtract(n1, n0)",
            "multiply(divide(subtract(n1, n0), n1), const_100)",
            "multiply(divide(n1, n0), const_100)",
        ],
        "{} %",
        "profit",
    ),
    Problem(
        "gain",
        "after a rise of {0} % a rent is $ {1} . what was it before ?",
        [(5, 50, 5), (210, 1200, 10)],
        "divide(multiply(n1, const_100), add(const_100, n0))",
        ["subtract(n1, divide(multiply(n0, n1), const_100))", "subtract(n1, n0)", "add(n1, n0)"],
        "$ {}",
        "rent",
    ),
    Problem(
        "geometry",
        "a garden is {0} m long and {1} m wide . how long is the fence around it ?",
        [(8, 60, 1), (5, 40, 1)],
        "multiply(const_2, add(n0, n1))",
        ["add(n0, n1)", "multiply(n0, n1)", "add(n0, multiply(const_2, n1))"],
        "{} m",
        "perimeter",
    ),
    Problem(
        "geometry",
        "a floor is {0} feet by {1} feet and tiles cost $ {2} a square foot . what do the tiles "
        "for it cost ?",
        [(6, 24, 1), (5, 18, 1), (2, 9, 1)],
        "multiply(multiply(n0, n1), n2)",
        ["multiply(n0, n1)", "multiply(add(n0, n1), n2)", "add(multiply(n0, n1), n2)"],
        "$ {}",
        "cost",
    ),
    Problem(
        "geometry",
        "a triangle has a base of {0} cm and a height of {1} cm . what is its area in sq cm ?",
        [(4, 40, 2), (3, 25, 1)],
        "divide(multiply(n0, n1), const_2)",
        ["multiply(n0, n1)", "add(n0, n1)", "divide(add(n0, n1), const_2)"],
        lead="area",
    ),
    Problem(
        "geometry",
        "the perimeter of a square is {0} cm . what is its area in sq cm ?",
        [(8, 160, 4)],
        "power(divide(n0, const_4), const_2)",
        ["multiply(n0, const_4)", "divide(n0, const_4)", "multiply(divide(n0, const_4), const_2)"],
        lead="area",
    ),
    Problem(
        "probability",
        "a bag holds {0} red and {1} blue balls . one is drawn at random . what is the "
        "probability that it is red ?",
        [(2, 15, 1), (2, 15, 1)],
        "divide(n0, add(n0, n1))",
        [
            "divide(n1, add(n0, n1))",
            "divide(n0, n1)",
            "divide(const_1, n0)",
            "divide(const_1, add(n0, n1))",
            "divide(n0, add(const_1, add(n0, n1)))",
        ],
        lead="probability",
    ),
    Problem(
        "other",
        "in a club of {0} members , {1} play chess , {2} play darts and {3} play neither . how "
        "many play both ?",
        [(40, 120, 5), (20, 70, 1), (20, 70, 1), (3, 15, 1)],
        "subtract(add(add(n1, n2), n3), n0)",
        ["subtract(add(n1, n2), n0)", "subtract(n0, n3)", "subtract(n0, add(n1, n3))"],
        lead="both",
    ),
    Problem(
        "other",
        "two numbers are in the ratio {0} : {1} and their sum is {2} . what is the second number ?",
        [(2, 7, 1), (3, 9, 1), (30, 300, 5)],
        "multiply(n1, divide(n2, add(n0, n1)))",
        ["multiply(n0, divide(n2, add(n0, n1)))", "divide(n2, add(n0, n1))", "divide(n2, n1)"],
        lead="second number",
    ),
]


def parse(formula: str) -> ast.expr:
    return ast.parse(formula, mode="eval").body


def call(node: ast.expr) -> tuple[str, list[ast.expr]]:
    """The operation and arguments of an inner node, or the name of a leaf and no arguments."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id, node.args
    assert isinstance(node, ast.Name)
    return node.id, []


def leaf(name: str, numbers: list[int]) -> int:
    return int(name[6:]) if name.startswith("const_") else numbers[int(name[1:])]


def value(node: ast.expr, numbers: list[int]) -> Fraction:
    name, arguments = call(node)
    if not arguments:
        return Fraction(leaf(name, numbers))
    one, two = (value(argument, numbers) for argument in arguments)
    if name == "power":
        return one ** int(two)
    return {
        "add": one + two,
        "subtract": one - two,
        "multiply": one * two,
        "divide": one / (two or Fraction(1)),
    }[name]


def nested(node: ast.expr, numbers: list[int]) -> str:
    """The formula with its numbers put in, constants kept by name."""
    name, arguments = call(node)
    if not arguments:
        return name if name.startswith("const_") else str(leaf(name, numbers))
    return f"{name}({', '.join(nested(argument, numbers) for argument in arguments)})"


def linear(node: ast.expr, steps: list[str]) -> str:
    """Append the steps of the formula to `steps`; the name of its result."""
    name, arguments = call(node)
    if not arguments:
        return name
    step = f"{name}({','.join([linear(argument, steps) for argument in arguments])})"
    if step not in steps:
        steps.append(step)
    return f"#{steps.index(step)}"


def infix(node: ast.expr, numbers: list[int]) -> str:
    name, arguments = call(node)
    if not arguments:
        return str(leaf(name, numbers))
    parts = [infix(argument, numbers) for argument in arguments]
    return f" {SIGNS[name]} ".join(f"( {part} )" if " " in part else part for part in parts)


def wrong_options(rng: random.Random, right: Fraction, mistakes: list[Fraction]) -> list[Fraction]:
    """Four positive values that differ from the right one, mistakes before near misses."""
    whole = right.denominator == 1
    near = [right + step for step in (1, -1, 2, -2, 3, 4, 5, 10, -10)] if whole else []
    rng.shuffle(near)
    found: list[Fraction] = []
    for option in mistakes + near:
        fits = option > 0 and option != right and (option.denominator == 1) >= whole
        if fits and option not in found:
            found.append(option)
    return found[:4]


def show(option: Fraction) -> str:
    if option.denominator == 1:
        return str(option.numerator)
    return f"{option.numerator} / {option.denominator}"


def numbers_for(rng: random.Random, problem: Problem) -> list[int]:
    """Numbers for which the answer is as it should be: a fraction below one, or a whole number."""
    formula = parse(problem.formula)
    while True:
        numbers = [rng.randrange(low, high + 1, step) for low, high, step in problem.ranges]
        if len(set(numbers)) < len(numbers):
            continue
        answer = value(formula, numbers)
        if problem.category == "probability":
            if math.gcd(*numbers) == 1 and answer.denominator > 1:
                return numbers
        elif answer > 1 and answer.denominator == 1 and believable(problem, numbers, answer):
            return numbers


def believable(problem: Problem, numbers: list[int], answer: Fraction) -> bool:
    if problem.lead == "both":
        return answer < min(numbers[1:3])
    if problem.lead == "perimeter":
        return numbers[0] > numbers[1]
    if problem.lead == "second number":
        return math.gcd(*numbers[:2]) == 1
    return problem.lead != "profit" or answer <= 80


def mathqa_row(rng: random.Random, problem: Problem, letter: str, as_list: bool) -> Row:
    numbers = numbers_for(rng, problem)
    formula = parse(problem.formula)
    right = value(formula, numbers)
    options = wrong_options(rng, right, [value(parse(m), numbers) for m in problem.mistakes])
    rng.shuffle(options)
    options.insert("abcde".index(letter), right)
    shown = [problem.unit.format(show(option)) for option in options]
    lettered = [f"{a} ) {b}" for a, b in zip("abcde", shown, strict=True)]
    first, second = rng.sample(NAMES.split(), 2)
    result = shown["abcde".index(letter)]
    working = f"{problem.lead} = {infix(formula, numbers)} = {result} . answer : {letter}"
    steps: list[str] = []
    linear(formula, steps)
    # In the original, quotes around the rationale go with a bar at the end of the formula, and
    # rows with list-like options have neither.
    quoted = not as_list and rng.random() < 0.75
    return {
        "Problem": problem.text.format(*numbers, p=first, q=second, things=rng.choice(THINGS.split())),
        "Rationale": f'"{working}"' if quoted else working,
        "options": str(lettered) if as_list else " , ".join(lettered),
        "correct": letter,
        "annotated_formula": nested(formula, numbers),
        "linear_formula": "|".join(steps) + ("|" if quoted else ""),
        "category": problem.category,
    }


def mathqa(rng: random.Random) -> Splits:
    """In every split the kinds of problem and the letters are equally frequent."""
    splits: Splits = {}
    seen: set[object] = set()
    for split, size in SIZES.items():
        rows: list[Row] = []
        while len(rows) < size:
            here = len(rows)
            as_list = here < round(LIST_LIKE * size)
            row = mathqa_row(rng, PROBLEMS[here % len(PROBLEMS)], "abcde"[here % 5], as_list)
            if row["Problem"] not in seen:
                seen.add(row["Problem"])
                rows.append(row)
        rng.shuffle(rows)
        splits[split] = rows
    return splits
