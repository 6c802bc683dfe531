"""PIQA-like rows: everyday goals, a way that reaches each and one that does not."""

import random

from sample.common import Row, Splits, table

# A goal, what works, what does not. As in the original, the two differ in a few words.
GOALS = """
How do I get candle wax off a tablecloth? | Freeze the cloth and break the hard wax off it. | Iron the \
wax into the cloth until it has cooled.
Stop a door from squeaking. | Put a drop of oil on its hinges. | Put a drop of oil on its lock.
Keep bread from going stale. | Store it in a closed bag. | Store it in the open next to a fan.
Peel a boiled egg easily. | Cool the egg in cold water before you peel it. | Warm the egg in an oven \
before you peel it.
How do you carry a hot pan to the table? | Hold it by the handle with a dry cloth. | Hold it by the rim \
with a wet cloth.
Dry a wet pair of shoes overnight. | Stuff them with newspaper. | Stuff them with wet leaves.
Find a small screw in a thick carpet. | Drag a magnet over the carpet. | Drag a ruler over the carpet.
Make a tight jar lid come off. | Run hot water over the lid. | Run cold water over the lid.
To reach a book on a high shelf | stand on a steady stool. | stand on a rolling chair.
Water plants while you are away. | Lay a wet string from a bucket into the pot. | Lay a dry spoon from a \
bucket into the pot.
Remove a splinter from a finger. | Pull it out with tweezers. | Push it in with tweezers.
How can I hang a heavy picture? | Drive a nail into the wall and hang it there. | Drive a nail through \
the picture into the floor.
Cut an onion with fewer tears. | Chill the onion before you cut it. | Warm the onion before you cut it.
Keep a tent from blowing away. | Tie it to pegs in the ground. | Tie it to balloons in the air.
To melt chocolate without burning it | warm it in a bowl over hot water. | warm it in the flame of a torch.
Clean the inside of a narrow vase. | Shake rice and soapy water in it. | Shake rice and wet paint in it.
Make a paper boat last longer in water. | Rub its outside with wax. | Rub its outside with sugar.
Sharpen a pencil without a sharpener. | Shave its tip with a knife. | Shave its tip with a spoon.
Pack glasses for moving house. | Wrap each of them in paper. | Stack all of them on bricks.
How do you thread a needle? | Wet the end of the thread and push it through the eye. | Wet the point of \
the needle and push it through the eye.
Put out a burning candle. | Cover it with a metal cup. | Cover it with a paper cup.
Keep coffee hot for hours. | Pour it into a closed flask. | Pour it onto a wide plate.
To paint a wall without stripes | use a wide roller. | use a toothbrush.
Measure half a cup without a half cup. | Fill a quarter cup twice. | Fill a full cup twice.
Get ice cubes out of a tray. | Bend the tray over a bowl. | Bend the tray over a fire.
Tell which egg is hard boiled. | Spin both and see which one spins smoothly. | Spin both and see which \
one is whiter.
Keep a sliced apple from turning brown. | Sprinkle it with lemon juice. | Sprinkle it with warm soil.
How do I climb a ladder safely? | Face the ladder and hold on with both hands. | Turn your back to the \
ladder and hold nothing.
Fix a bicycle tire that is flat. | Patch the hole and pump air in. | Pump air in and make a hole.
To make a lawn shorter | push a mower over it. | push a broom over it.
Warm up a cold bed. | Put a hot water bottle under the blanket. | Put an open window above the blanket.
Get a cork out of a bottle. | Turn a corkscrew into it and pull. | Turn a corkscrew beside it and push.
Stop a table from wobbling. | Fold paper and put it under the short leg. | Fold paper and put it on the \
table top.
Make cloudy headlights clear. | Rub them with toothpaste and wipe it off. | Rub them with mud and let it dry.
Keep ants out of a sugar bowl. | Close the bowl with a tight lid. | Leave the bowl on an ant hill.
To see in a dark cellar | take a flashlight with you. | take a mirror with you.
Fold a large sheet alone. | Lay it on the bed and bring its corners together. | Throw it in the air and \
catch its middle.
Soften butter quickly. | Cut it into small pieces and let them stand. | Put the whole block back into the \
freezer.
How do you catch rain for the garden? | Set a barrel under the gutter. | Set a barrel under the table.
Slide a heavy sofa over a wooden floor. | Put felt under its feet. | Put glue under its feet.
Keep a balloon full of air. | Tie a knot in its neck. | Cut a hole in its neck.
Rinse sand off your feet. | Pour water over them. | Pour honey over them.
To build a tall tower of blocks | put the widest blocks at the bottom. | put the narrowest blocks at the \
bottom.
Get a kite into the air. | Run against the wind with it. | Sit out of the wind with it.
Mark a page in a book. | Lay a strip of paper between the pages. | Lay a slice of ham between the pages.
Whip cream until it is stiff. | Beat cold cream with a whisk. | Beat boiling cream with a fork.
How can I make a shadow on the wall longer? | Hold the lamp lower. | Hold the wall lower.
Keep a boat at its place on the lake. | Let down an anchor. | Let down an empty net.
Test whether a battery is empty. | Put it into a flashlight that works. | Put it into a glass that leaks.
To move a nail out of a board | pull it with the claw of a hammer. | hit it with the head of a hammer.
Grow a new plant from seeds. | Cover them with moist soil. | Cover them with boiling oil.
Clean crumbs out of a keyboard. | Turn it over and tap it. | Fill it with water and tap it.
Walk over deep snow. | Wear wide snowshoes. | Wear narrow stilts.
Seal an envelope without glue. | Close it with tape. | Close it with a sponge.
Carry water in your hands. | Press your fingers together. | Spread your fingers apart.
How do you cool soup that is too hot? | Blow on each spoonful. | Put a lid on the bowl.
Tie two ropes into one. | Knot their ends together. | Lay their ends side by side.
To keep a fire burning | put dry wood on it. | put wet sand on it.
Remove a stamp from paper. | Soak the paper in warm water. | Staple the paper to a stamp.
Reach a coin under a sofa. | Sweep it out with a long stick. | Sweep it out with a short string.
"""


def piqa(rng: random.Random) -> Splits:
    rows: list[Row] = []
    for number, (goal, right, wrong) in enumerate(table(GOALS)):
        label = number % 2
        first, second = (wrong, right) if label else (right, wrong)
        rows.append({"goal": goal, "sol1": first, "sol2": second, "label": label})
    rng.shuffle(rows)
    return {"validation": rows}
