"""SciTail-like rows: does the hypothesis follow from the premise?

Rows come in pairs that share a premise, one hypothesis following from it and one not, and most
hypotheses occur with both labels. So neither half gives the label away, and in the contrasts the
words shared by premise and hypothesis do not either: only who did what differs.
"""

import random

from sample.common import Row, Splits, capital, cut, table

SIZES = {"train": 400, "validation": 120, "test": 160}

# A block is one subject: three facts, each a premise and a paraphrase or weakening of it that
# does not follow from the other two premises of the block.
FACTS = """
Owls do most of their flying after sunset. | Owls are active at night.
The soft edges of their feathers let owls fly almost silently. | Owls make little noise in flight.
Owls cough up pellets of fur and bone after a meal. | Owls do not digest all they swallow.

A thick layer of fat keeps polar bears warm. | Body fat protects polar bears from the cold.
Polar bears wait at holes in the ice to catch seals. | Seals are food for polar bears.
Polar bears can swim for hours without a rest. | Polar bears can travel far in water.

Frogs hatch as tadpoles and grow legs later. | Frogs change shape as they grow up.
Frogs take in oxygen through their moist skin. | The skin of frogs helps them breathe.
Frogs catch flies with a long sticky tongue. | Frogs feed on insects.

Honeybees dance to show each other where flowers are. | Honeybees tell others about food.
Pollen sticks to honeybees and rubs off on the next flower. | Honeybees pollinate plants.
One queen lays all the eggs in a hive of honeybees. | Honeybees of one hive share a mother.

Camels store fat in their humps. | Camels carry a supply of energy on their backs.
Wide feet keep camels from sinking into the sand. | Camels can walk well on soft ground.
Camels close their nostrils when sand is blowing. | Camels can keep sand out of their noses.

Bats call and listen for the echoes to find moths. | Bats use sound to find food.
Bats feed their newborn young with milk. | Bats are mammals.
Many bats sleep in caves from autumn until spring. | Some bats hibernate.

Earthworms dig tunnels that let air into the ground. | Earthworms loosen the soil.
Earthworms feed on dead leaves that they pull underground. | Earthworms eat plant remains.
Earthworms die when their skin dries out. | Earthworms need moisture to live.

The skeleton of a shark is made of cartilage. | Sharks have no true bones.
Sharks lose teeth all their lives and grow new ones. | The teeth of sharks are replaced.
Sharks notice a few drops of blood far away in the water. | Sharks have a good sense of smell.

Penguins paddle under water with their stiff wings. | Penguins swim with their wings.
Male emperor penguins warm the egg on their feet. | Some penguin fathers care for eggs.
Penguins crowd together in storms to lose less heat. | Penguins keep warm by huddling.

Snakes swallow their prey whole. | Snakes do not chew their food.
Snakes shed their outer skin several times a year. | Snakes replace their old skin.
Snakes lie on sunny rocks to warm up. | Snakes get heat from their surroundings.

Spiders spin sticky webs that hold flies. | Spiders use silk to catch prey.
Baby spiders drift away on the wind on threads. | Young spiders can travel through the air.
Most spiders turn a meal into liquid before they take it in. | Most spiders drink their food.

A cactus swells with water after rain. | A cactus can store water.
The spines of a cactus keep animals from eating it. | A cactus is protected by its spines.
The roots of many a cactus lie just below the surface. | Many a cactus has shallow roots.

Green leaves use sunlight to turn water and air into sugar. | Leaves make food for the plant.
Water vapor escapes from leaves through tiny openings. | Plants lose water through their leaves.
Leaves turn red or yellow in autumn and then drop. | Leaves can change color before they fall.

Roots hold a plant firmly in the ground. | Roots anchor plants.
Roots take up water from the soil. | Plants get water through their roots.
Carrots and beets are roots filled with sugar. | Some roots store food.

Maple seeds spin through the air on small wings. | Wind carries maple seeds.
Seeds need water before they can sprout. | Dry seeds do not start to grow.
A seed holds food for the young plant inside it. | Seeds feed the plant at first.

Bright petals bring bees to a flower. | The color of a flower attracts insects.
A fertilized flower turns into a fruit. | Fruits develop from flowers.
Some flowers open only after dark. | Certain flowers bloom at night.

Mushrooms feed on rotting wood. | Mushrooms get food from dead trees.
Mushrooms release millions of tiny spores. | Mushrooms reproduce by spores.
Some mushrooms are deadly when eaten. | Certain mushrooms are poisonous.

The heart pushes blood through the arteries. | The heart makes blood flow.
The heart is built of muscle that never rests. | The heart is a muscle.
The heart beats faster when a person runs. | Exercise raises the heart rate.

Oxygen moves from the lungs into the blood. | Blood picks up oxygen in the lungs.
The lungs push carbon dioxide out of the body. | The lungs remove a waste gas.
Cigarette smoke damages the tissue of the lungs. | Smoking harms the lungs.

Sweat dries on the skin and carries heat away. | The skin helps to cool the body.
The skin keeps most germs out of the body. | The skin guards against infection.
Nerve endings in the skin react to pressure. | The skin can feel touch.

Bones hold the body up. | The skeleton supports the body.
Blood cells are made in the marrow of bones. | Bones produce blood cells.
Calcium from milk makes bones hard. | Milk is good for bones.

Acid in the stomach breaks food down. | Food is digested in the stomach.
Acid in the stomach kills many germs. | The stomach helps to fight germs.
Muscles in the wall of the stomach mix its contents. | The stomach churns what is in it.

Muscles pull on bones to bend a joint. | Muscles make bones move.
Muscles grow when they are used often. | Exercise makes muscles larger.
Muscles give off heat when they work. | Working muscles warm the body.

White blood cells attack germs. | Some blood cells fight disease.
Red blood cells bring oxygen to the muscles. | Blood carries oxygen.
Platelets in the blood stop a cut from bleeding. | Part of the blood closes wounds.

The moon shines because sunlight bounces off it. | The moon makes no light of its own.
The moon travels around Earth in about a month. | The moon orbits Earth.
The moon has no air to burn up falling rocks. | The moon has no atmosphere.

The sun turns hydrogen into helium in its core. | The sun is powered by fusion.
The sun is far larger than all planets together. | The sun is bigger than any planet.
The pull of the sun holds planets in their orbits. | The gravity of the sun affects planets.

Iron oxide gives the ground of Mars its red color. | Mars looks red because of rust.
Mars needs almost two Earth years to circle the sun. | A year on Mars is longer than on Earth.
Dry valleys on Mars were carved by rivers. | Water once flowed on Mars.

Jupiter spins once in about ten hours. | Jupiter has a short day.
Jupiter has many dozens of moons. | Several moons travel around Jupiter.
Jupiter is a huge ball of hydrogen and helium. | Jupiter consists mainly of gas.

Comets are lumps of ice and dust. | Comets contain frozen matter.
Sunlight turns part of a comet into a glowing tail. | Comets grow a tail near the sun.
Some comets come back every few years. | Certain comets can be seen repeatedly.

Volcanoes throw out melted rock. | Lava comes out of volcanoes.
New islands rise from volcanoes under the sea. | Volcanoes can build land.
Ash from volcanoes makes fields rich in minerals. | Volcanoes can improve soil.

Glaciers form where snow piles up for centuries. | Glaciers are made from old snow.
Glaciers slide slowly downhill. | Glaciers move.
Glaciers scrape rock away and leave deep valleys. | Glaciers can shape the land.

Rivers drop sand where they meet the sea. | Rivers carry sand to the coast.
Rivers turn the wheels of power stations. | Rivers can be used to make electricity.
Rivers overflow their banks after heavy rain. | Rain can cause rivers to flood.

Clouds consist of tiny water drops. | Clouds are made of water.
Clouds at night keep the ground from cooling. | Cloudy nights stay warmer.
Towering dark clouds bring thunder. | Certain clouds are a sign of storms.

Lightning heats the air until it bangs. | Thunder is caused by lightning.
Lightning often strikes the tallest tree. | High objects are at risk from lightning.
Lightning is a giant spark between cloud and ground. | Lightning is electricity.

The pull of the moon makes the tide rise. | The moon causes tides.
Most coasts see two high tides a day. | The tide on most coasts rises twice daily.
Crabs hide in wet sand when the tide is out. | Some animals adapt to the tide.

Earthquakes start where plates of crust slip. | Moving plates cause earthquakes.
Earthquakes under the sea can raise huge waves. | A tsunami can follow an earthquake.
Some houses sway with earthquakes instead of breaking. | Buildings can survive earthquakes.

Fossils of shells lie on some mountain tops. | Sea fossils can be found high up.
Fossils show what extinct animals looked like. | Fossils teach us about past life.
Most fossils lie in rock made of layers of mud. | Fossils are common in mudstone.

Magnets pull iron nails toward them. | Magnets attract iron.
Two magnets push apart at their north poles. | Like poles of magnets repel.
Magnets lose their strength when made very hot. | Heat can weaken magnets.

Sound is made when an object shakes the air. | Vibration causes sound.
Sound cannot cross empty space. | Sound needs matter to travel through.
Sound that meets a cliff comes back as an echo. | Sound can be reflected.

Light crosses space at great speed. | Light needs no air to travel.
A prism spreads white light into many colors. | White light is a mixture of colors.
Light bends when it enters water. | Light can change direction.

Water expands when it freezes. | Ice takes up more room than the same water.
Water boils at a lower temperature on mountains. | Height changes when water boils.
Salt disappears when it is stirred into water. | Salt dissolves in water.

Iron rusts in damp air. | Moist air can damage iron.
Iron becomes liquid in a very hot furnace. | Iron can be melted.
Iron rails grow longer on hot days. | Heat makes iron expand.

Friction between sliding parts makes them hot. | Friction produces heat.
Oil on an axle lowers the friction. | Oil helps parts slide more easily.
Friction between tires and road stops a car. | Cars need friction to brake.

A battery turns chemical energy into a current. | Chemicals in a battery make electricity.
A battery has a positive and a negative end. | The two ends of a battery differ.
Some batteries can be filled with energy again. | Certain batteries are rechargeable.

Bacteria in milk turn it into yogurt. | Some bacteria are used to make food.
A single bacterium can split in two within an hour. | Bacteria multiply fast.
Boiling water kills most bacteria. | Heat destroys bacteria.
"""

# Two subjects, what is said of each, and the same in other words. Swapped it would be false.
KNOWN = """
spiders | insects | have eight legs | have six legs | walk on eight legs | walk on six legs
whales | sharks | breathe with lungs | breathe with gills | breathe air | take oxygen from water
copper wires | glass rods | let current pass | stop a current | are conductors | are insulators
birds | fish | are covered with feathers | are covered with scales | have feathers | have scales
rabbits | foxes | live on plants | live on other animals | are herbivores | are predators
oaks | pines | drop their leaves in autumn | stay green all year | are deciduous | are evergreen
veins | arteries | bring blood to the heart | take blood from the heart \
| lead to the heart | lead away from the heart
stars | planets | shine by themselves | reflect the light of a star \
| make their own light | make no light of their own
solids | liquids | keep their shape | spread out in a jar | have a fixed shape | have no fixed shape
acids | bases | turn litmus red | turn litmus blue | make litmus red | make litmus blue
ferns | roses | reproduce by spores | reproduce by seeds | form spores | form seeds
salmon | sea turtles | lay eggs in rivers | lay eggs on beaches | spawn in water | nest on land
deserts | rain forests | get little rain | get much rain | are dry places | are wet places
wind and sunlight | coal and oil | never run out | will run out one day \
| are renewable | are not renewable
bees | rattlesnakes | sting | bite | use a stinger | use their teeth
"""

# Two things seen in an investigation, what was seen of each, and what follows from it.
PAIRS = {
    "object": "sample A/sample B, the red rod/the blue rod, the first strip/the second strip, "
    "the large block/the small block, object P/object Q, the left piece/the right piece",
    "animal": "animal A/animal B, the first species/the second species, the gray animal/the brown "
    "animal, the island species/the forest species, species X/species Y",
    "plant": "plant A/plant B, the tall plant/the short plant, the first plant/the second plant, "
    "the plant on the left/the plant on the right",
    "rock": "rock A/rock B, rock X/rock Y, the dark rock/the pale rock, the first rock/the second rock",
    "planet": "planet A/planet B, the first planet/the second planet, the near planet/the far planet",
}
SEEN = """
object | let the lamp light up | kept the lamp dark | conducts electricity | is an insulator
object | jumped to the magnet | ignored the magnet | is magnetic | is not magnetic
object | floated on the water | sank in the water | is lighter than water | is denser than water
object | dissolved in the water | settled in the water | is soluble | is not soluble
object | threw a dark shadow | let all light through | is opaque | is transparent
object | snapped in the hand | bent in the hand | is brittle | is flexible
object | turned litmus red | turned litmus blue | is an acid | is a base
object | grew hot at the far end | stayed cold at the far end | conducts heat | stops heat well
object | scratched the glass | was scratched by the glass | is harder than glass \
| is softer than glass
object | soaked up the spill | let the spill run off | absorbs water | is waterproof
object | sprang back when released | stayed bent when released | is elastic | is not elastic
animal | eats only leaves | eats only meat | is a herbivore | is a carnivore
animal | hunts at midnight | hunts at noon | is active at night | is active by day
animal | has a backbone | has no bones | is a vertebrate | is an invertebrate
animal | makes its own body heat | needs the sun to warm up | is warm-blooded | is cold-blooded
animal | feeds its young with milk | grows feathers | is a mammal | is a bird
animal | flies south in autumn | sleeps through the winter | migrates | hibernates
animal | hides by its color | warns others by its color | is camouflaged | is easy to notice
animal | is eaten by hawks | eats hawks | is prey of hawks | is a predator of hawks
animal | naps in the tree tops | naps in a burrow | sleeps high up | sleeps below ground
animal | lives alone | lives in a herd | is solitary | is social
plant | drops its leaves in autumn | keeps its leaves in winter | is deciduous | is evergreen
plant | stores water in its stem | floats on a pond | suits dry places | suits wet places
plant | grew toward the lamp | grew pale in a dark box | got light | got no light
plant | has bright petals | spreads by spores | makes flowers | has no flowers
plant | lives for one summer | lives for forty years | is short-lived | is long-lived
rock | formed from cooled lava | formed from layers of sand | is igneous | is sedimentary
rock | formed deep below ground | fell from the sky | came from inside Earth | came from space
rock | crumbles in rain | withstands rain for ages | weathers fast | weathers slowly
planet | circles its star in a week | circles its star in a century | has a short year \
| has a long year
planet | spins once in 9 hours | spins once in 90 hours | has a short day | has a long day
planet | is wrapped in thick gas | is bare rock under black sky | has an atmosphere \
| lacks an atmosphere
planet | has frozen seas | has seas of melted metal | is very cold | is very hot
"""


def row(premise: str, hypothesis: str, label: str) -> Row:
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def fact_pairs(rng: random.Random) -> list[list[Row]]:
    """A fact with its own paraphrase, and with the paraphrase of its neighbor in the block."""
    pairs = []
    for block in FACTS.strip().split("\n\n"):
        facts = table(block)
        for here, (premise, hypothesis) in enumerate(facts):
            other = facts[(here + 1) % 3][1]
            pairs.append([row(premise, hypothesis, "entails"), row(premise, other, "neutral")])
        # Two premises together: longer, and one more thing to tell apart.
        first, second, third = rng.sample(facts, 3)
        both = f"{first[0]} {second[0]}"
        told = rng.choice([first[1], second[1]])
        pairs.append([row(both, told, "entails"), row(both, third[1], "neutral")])
    return pairs


def contrast(rng: random.Random, names: list[str], seen: list[str], so: list[str]) -> list[Row]:
    """Two things told apart in the premise; the hypothesis holds for one of them."""
    first = rng.randrange(2)
    second = 1 - first
    joint = rng.choice(["while", "but", "and"])
    premise = capital(f"{names[first]} {seen[first]}, {joint} {names[second]} {seen[second]}.")
    told = rng.randrange(2)
    return [
        row(premise, capital(f"{names[told]} {so[told]}."), "entails"),
        row(premise, capital(f"{names[1 - told]} {so[told]}."), "neutral"),
    ]


def known_pairs(rng: random.Random) -> list[list[Row]]:
    """Contrasts between kinds of things: what does not follow is false as well."""
    return [contrast(rng, cells[:2], cells[2:4], cells[4:]) for cells in table(KNOWN)]


def seen_pairs(rng: random.Random) -> list[list[Row]]:
    """Contrasts between unnamed things: only the premise tells what is true of them."""
    return [
        contrast(rng, rng.sample(names.split("/"), 2), cells[:2], cells[2:])
        for kind, *cells in table(SEEN)
        for names in PAIRS[kind].split(", ")
    ]


def scitail(rng: random.Random) -> Splits:
    """Pairs of rows, half of them contrasts, dealt whole so that every split is balanced."""
    known = known_pairs(rng)
    half = sum(SIZES.values()) // 4
    contrasts = known + rng.sample(seen_pairs(rng), half - len(known))
    pairs = rng.sample(fact_pairs(rng), half) + contrasts
    rng.shuffle(pairs)
    splits = cut([r for pair in pairs for r in pair], SIZES)
    for rows in splits.values():
        rng.shuffle(rows)
    return splits
