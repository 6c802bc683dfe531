"""WikiText-like rows: encyclopedia articles on invented subjects, tokenised, with blank rows.

In the text below `= ` begins a title, `= = ` a section heading and `* ` a paragraph.
"""

import random
import re

from sample.common import Row, Splits

# Articles a split; each makes ten rows.
SIZES = {"test": 8, "validation": 4}

ARTICLES = """
= Harrowby
* Harrowby is a market town on the southern bank of the River Wenn , about 21 miles from the coast
. At the most recent census it had a population of 9 @,@ 576 . The town lies in a shallow valley
between two chalk ridges , and most of its older houses are built of a pale yellow brick that was
made in the area until the 1890s .
* The oldest part of the town surrounds a triangular market place , where a weekly market has been
held since the thirteenth century . A stone cross in its centre marks the spot where farmers once
paid their tolls . The parish church , with a short tower and a twelfth @-@ century font , stands
close to the river and can be seen from most of the surrounding farms .
= = Economy
* Until the railway arrived in 1855 , the town depended almost entirely on the wool trade . Six
mills stood along the river in 1800 , of which two survive ; one is now a library and the other
has been divided into apartments . In the twentieth century the largest employer was a factory
that produced garden tools , which closed in 1983 .
* Today many residents travel to work in larger places nearby . There are three primary schools
and a secondary school with about 712 pupils . A festival of folk music takes place in the first
week of June , and draws visitors from the whole county . The proceeds have been used to repair
the footbridge .

= Velmar River
* The Velmar River rises in a marsh at a height of 695 metres and flows north @-@ west for 181
kilometres before it reaches the sea . Its upper course is steep and stony , with several
waterfalls , of which the highest drops 35 metres into a round pool . Below the last of these the
valley widens and the current becomes slow .
* Because the bedrock is mostly sandstone , part of the water disappears underground during dry
summers and returns through springs further down . The river is fed by fourteen named streams ,
all but two of them from the east . Its mean discharge near the mouth is about 40 cubic metres per
second , although floods in spring have reached more than ten times that amount .
= = Ecology
* Trout and grayling live in the upper reaches , while the slow lower part is home to pike , perch
and eels . Otters returned to the river in the 1980s after an absence of some thirty years . In
the reed beds near the mouth , bitterns and marsh harriers breed every year , and large flocks of
ducks spend the winter there .
* Salmon were common until a dam was built in 1912 to supply a paper mill . A fish ladder was
added twenty years later , but few fish used it . After the mill had closed , the dam was lowered
by three metres , and within five seasons young salmon were counted above it for the first time in
living memory .

= Pale ringlet moth
* The pale ringlet moth is a moth of the family <unk> . It was first described in 1844 from
specimens that had been collected in a mountain meadow . The wingspan is 22 to 38 millimetres .
The forewings are grey with a rust @-@ coloured band , and the hindwings are plain brown . Females
are slightly larger than males and fly less often .
* The species is found in open woodland and on heaths , usually below 931 metres . Adults are on
the wing from May to July , depending on the weather , and are attracted to light . During the day
they rest on tree trunks , where their colour makes them very hard to see . They feed on nectar ,
mainly from heather .
= = Life cycle
* The female lays between 61 and 128 eggs , singly or in pairs , on the underside of leaves . The
caterpillars hatch after about ten days . They are green at first and become brown before the last
moult . They feed at night on sallow and hide in folded leaves by day .
* In September the caterpillar leaves its food plant , digs itself into the soil and turns into a
pupa , which spends the winter there . A small wasp is known to attack the caterpillars , and in
some years it destroys more than half of them . The moth is not considered to be threatened ,
although it has become rare where heaths have been planted with spruce .

= Marguerite Halloran
* Marguerite Halloran was a landscape painter who worked for most of her life on the islands off
the western coast . She was born in 1861 , the youngest of seven children of a schoolmaster . An
aunt who kept a bookshop gave her a box of water colours when she was nine , and she later said
that she had " never put it away again " .
* At nineteen she moved to the capital to study , but she left the academy after one year because
women were not admitted to the drawing classes that she wanted to attend . She earned her living
by illustrating railway guides and painted in the evenings . Her first exhibition , in a hotel
lobby , sold only two pictures .
= = Style and reception
* Her early paintings are careful studies of rocks and harbours in brown tones . After a stay in
the south in 1909 she began to use broad strokes and strong colours , and often left parts of the
canvas bare . Critics were divided : one wrote that her waves looked " like torn curtains " ,
while another called her the only painter in the country who understood wind .
* She rarely dated her works , which has made it difficult to arrange them in order . About 348
paintings are known , more than half of them in private hands . A fire in a warehouse destroyed
forty canvases shortly before her death . The largest public collection is held by the museum of
the island on which she is buried .

= SS Northern Star
* SS Northern Star was a cargo steamer that was built in 1889 for a company trading in timber .
She was 94 metres long , had a beam of 11 metres and measured 2 @,@ 374 gross register tons . A
triple @-@ expansion engine of 213 horsepower gave her a top speed of eleven knots . She carried a
crew of twenty @-@ eight .
* For the first ten years of her career she sailed between Scottish ports and the eastern coast of
England . In November of her third year she lost her rudder in a gale and drifted for two days
before a trawler took her in tow . An inquiry praised the conduct of the master , but found that
repairs to the steering gear had been carried out badly .
= = Loss
* On the night of 7 March the ship left harbour in fog with a cargo of railway sleepers . Shortly
after two o 'clock she struck a reef that was not marked on the chart in use . Water entered the
forward hold at once . The crew took to the boats within twenty minutes , and all of them were
picked up by a lighthouse tender at dawn .
* The wreck lies at a depth of 34 metres , with the bow pointing north . It was found by divers in
1979 , who recovered the bell and a number of plates . The boilers are still upright , but most of
the hull has collapsed . Since the site is protected , nothing may be removed from it without a
licence .

= Aldmoor Tramway
* The Aldmoor Tramway was a narrow @-@ gauge railway that connected a slate quarry with a small
port . It opened in 1879 and was 17 miles long . The track climbed steadily for most of its length
, so that loaded wagons could run down to the harbour by gravity , with brakesmen riding on them ,
while horses pulled the empty ones back .
* Steam locomotives were introduced eight years after the opening . Three small engines were
ordered , each with four coupled wheels and a tall chimney , and all of them were named after
rivers . Passenger trains followed in the next summer . They consisted of five open carriages and
stopped at every farm on request .
= = Decline and closure
* Demand for slate fell sharply after the turn of the century , when cheaper tiles became
available . The company reduced the number of trains to three a day , and in 1930 it gave up
carrying passengers altogether . A bus service along the valley road had by then taken most of the
traffic . The last train of slate ran in 1944 .
* The rails were sold for scrap , but the route can still be followed for most of its length . A
society founded in 1981 has rebuilt one mile of track near the quarry and runs trains on Sundays .
One of the original locomotives , which had served as a pump in a gravel pit , was bought back and
repaired over twelve years .

= 1954 Carrow Rovers season
* The 1954 Carrow Rovers season was the twenty @-@ third in the history of the club and its first
in the second division . Having been promoted the year before , the team was expected to struggle
. It began with four defeats in a row , and the manager , who had been in charge for eight years ,
resigned in October . His place was taken by the former captain .
* Under the new manager the results improved at once . The team won nine of its next twelve
matches , kept a clean sheet in six of them and climbed to eleventh place by the end of January .
The young goalkeeper , signed from a works team for a fee of 348 pounds , was named player of the
month in January .
= = Cup and final matches
* In the cup the club reached the fourth round for the only time . After a draw on a frozen pitch
, the replay attracted 22 @,@ 498 spectators , which is still the record for the ground . The home
side led at half @-@ time but conceded two goals in the last ten minutes , the second of them from
a disputed corner .
* A run of injuries in spring left only fourteen players fit , and just two of the last nine games
were won . The club finished 13th , four points clear of relegation . The top scorer was the
outside left , with 24 goals in all competitions . Average attendance rose to 6 @,@ 177 .

= Tropical Storm Alma
* Tropical Storm Alma was the third named system of an unusually quiet season . It developed from
a broad area of low pressure that had moved westward for about a week without becoming better
organised . On August 21 , thunderstorms increased near its centre , and a reconnaissance aircraft
measured winds of 41 mph . The system was named on the same evening .
* Moving slowly to the north @-@ west , the storm passed over very warm water and reached its peak
intensity two days later , with winds of 61 mph . Dry air then entered the circulation from the
west . The cloud tops warmed , the centre became exposed , and the storm was downgraded to a
depression twelve hours before it came ashore .
= = Impact
* Rainfall was the main effect on land . Up to 184 millimetres fell in the hills , where three
rivers left their banks and several roads were blocked by mud . About 689 people spent the night
in schools and churches . A bridge that had been opened only a year earlier was washed away , and
the sugar harvest was partly lost .
* Along the coast the surge remained below one metre and caused little damage . Four fishing boats
broke from their moorings and were thrown onto the beach . Warnings had been issued well in time ,
and no deaths were reported . Because the damage was small , the name was not retired , and it was
used again six years later .

= Skerry Point Light
* Skerry Point Light is a lighthouse at the end of a low headland , four miles from the nearest
village . It was completed in 1838 after three brigs had been wrecked on the same sandbank within
a single winter . The tower is built of granite blocks that were cut to fit without mortar , and
it stands 31 metres high .
* The first lamp burned whale oil and used twenty @-@ one reflectors . It was replaced by a lens
in 1867 , which increased the range of the light to eighteen nautical miles . A fog bell , struck
every fifteen seconds by clockwork , was rung from a wooden shed beside the tower until a horn
took its place .
= = Keepers
* Two keepers and their families lived on the headland , in cottages joined by a covered passage .
Supplies came by boat once a month if the sea allowed . The log kept by the second head keeper ,
who stayed for thirty @-@ three years , records the weather every four hours and , on one occasion
, the visit of a walrus .
* The light was made automatic in 1972 , and the last keeper left in the same autumn . The
cottages stood empty until a trust turned them into a hostel for walkers . Visitors may climb the
142 steps to the gallery on weekends in summer , unless the wind is stronger than 30 knots .

= Thornby Russet
* Thornby Russet is a variety of dessert apple . It was raised from a chance seedling that a
railway porter noticed on an embankment in 1903 , and it was first sold under the name of " Porter
's Pride " . The fruit is of medium size , somewhat flattened , with a rough brown skin and firm ,
cream @-@ coloured flesh .
* The flavour is usually described as nutty , with a hint of pear . Apples picked in the middle of
October can be stored until March , when they become sweeter but begin to shrivel . Because the
skin is dull and the shape uneven , supermarkets have rarely taken an interest in the variety .
= = Cultivation
* The tree is of moderate vigour and spreads widely if it is not pruned . It flowers late and so
often escapes frost , but it needs another variety nearby for pollination . It resists scab well ,
though it can suffer from canker on wet soils . On most rootstocks a first crop may be expected in
the fourth year .
* At its peak , in the 1930s , some 160 hectares were planted with the variety . Fewer than five
remained sixty years later . Interest has grown again since a maker of cider won a prize with a
blend that contained it , and grafted trees are now offered by about a dozen nurseries .

= The Glass Orchard
* The Glass Orchard is a silent drama film that was released in 1926 . It tells the story of a
young glassblower who inherits an orchard from an uncle whom she has never met , and who must
decide whether to sell it to the owner of a nearby quarry . The film was shot in eleven weeks ,
mostly outdoors .
* The director had worked as a stage designer and insisted on building a full @-@ sized greenhouse
, which cost almost a third of the budget . It was blown down by a storm on the day after the last
scene had been completed . Several members of the crew appear as villagers , because there was no
money left to pay extras .
= = Release and rediscovery
* The first screening was attended by about 700 people . Reviewers admired the photography , in
particular a long shot through falling leaves , but complained that the plot moved too slowly .
The film ran for nine days in the capital and was then shown in the provinces in a version that
had been shortened by twenty minutes .
* All copies were believed to be lost until a set of six reels turned up in the attic of a school
in 1979 . Two of the reels had been damaged by damp . A restored version , with missing scenes
replaced by still photographs , was shown in 1988 with a new score for piano and two violins .

= Battle of Kellen Ford
* The Battle of Kellen Ford was fought on 14 September 1462 between the army of the Duke of Varn
and the militia of three allied towns . It took place at a shallow crossing of the river , where
the road from the mountains met the road to the coast . The duke hoped to reach the towns before
their harvest had been brought in .
* The militia , about 2 @,@ 600 strong , had dug a ditch behind the ford and filled it with stakes
. Heavy rain during the night had raised the water by almost half a metre . When the duke 's
horsemen entered the river at dawn , many were swept off their feet , and those who crossed were
stopped by the ditch .
= = Aftermath
* The duke withdrew in the afternoon , leaving behind most of his baggage and four cannon .
Chronicles written in the towns speak of a thousand dead on his side , but modern historians
consider a figure of two hundred more likely . A truce was signed in November and lasted for
eleven years .
* The cannon were melted down and cast into a bell , which hangs in the town hall to this day .
Each year on the anniversary it is rung at six in the morning . A museum near the site shows
arrowheads , horseshoes and part of a wooden bridge that was built across the ford later in the
same century .
"""


def article(text: str) -> list[Row]:
    """As in the original, headings stand between blank rows, and every row is set in spaces."""
    rows: list[Row] = []
    for line in re.split(r"\n(?=[=*] )", text):
        if line.startswith("* "):
            rows.append({"text": f" {' '.join(line[2:].split())} "})
            continue
        end = "= =" if line.startswith("= = ") else "="
        rows += [{"text": " "}, {"text": f" {line} {end} "}, {"text": " "}]
    return rows


def wikitext2(rng: random.Random) -> Splits:
    """Each article once, dealt by `rng`: no paragraph resembles another."""
    texts = ARTICLES.strip().split("\n\n")
    rng.shuffle(texts)
    splits: Splits = {}
    for split, size in SIZES.items():
        splits[split] = [row for text in texts[:size] for row in article(text)]
        texts = texts[size:]
    return splits
