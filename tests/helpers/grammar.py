"""A fixed pool of instructions composed from words, from which the scripted server replies."""

from __future__ import annotations

import random

TOPICS = """tidal pools|the history of paper|night trains|urban beekeeping|volcanic soil|the invention of the zipper
sourdough bread|migrating storks|public libraries|old lighthouses|the rules of chess|glacier melt|street musicians
medieval guilds|solar cookers|the smell of rain|left-handed scissors|river deltas|the price of coffee|desert foxes
school gardens|bicycle couriers|ancient bridges|deep-sea vents|the life of a honeybee|weather balloons|folk dances
mountain rescue|clay pottery|the printing press|tropical storms|local elections|wind turbines|sleep and memory
the colour blue|island languages|coral bleaching|paper maps|the first steam engines|seed banks|open-air markets
bird song|roman roads|the taste of salt|space debris|cotton farming|winter sports|museum thefts|train timetables
household dust|wild mushrooms|the game of go|canal locks|earthquake alarms|traffic lights|amateur radio|silk worms
antique clocks|the northern lights|food labels|stray dogs|chamber music|ocean currents|beaver dams|model railways
postal stamps|the human knee|cheese caves|night markets|rooftop farms|sign language|forest fires|school buses
comic strips|the metric system|ice harvesting|puppet theatre|carrier pigeons|orchard pests|underground rivers
sand castles|city noise|lost luggage|wool dyeing|the speed of light|tea ceremonies|harbour pilots|stained glass
wolf packs|paper cranes|dry-stone walls|the sense of touch|fishing quotas|rain barrels|jazz festivals|stone circles
planet orbits|apple varieties|car sharing|border towns|the origin of zero|vertical farms|bat caves|hot springs
juggling|bronze bells|swamp forests|crossword puzzles|fire brigades|moss gardens|hand shadows|snow tunnels
ferry routes|goat herding|town criers|kite fighting|reed flutes|salt mines|tram depots|peat bogs|oral epics
mirror telescopes|barn owls|square dances|copper roofs|flea markets|wheat rust|ballpoint pens|rope bridges""".replace(
    "\n", "|"
).split("|")
PEOPLE = """a retired teacher|a nervous traveller|two young siblings|a museum guide|a busy nurse|an apprentice cook
a village council|a curious tourist|a football coach|a night-shift worker|a choir of beginners|a new neighbour
a sceptical engineer|a group of pensioners|a class of ten-year-olds|a shop assistant|a visiting judge|a radio audience
a first-year student|a farmer in a hurry|an impatient editor|a book club|a shy colleague|a ship's crew
a landlord|a chess club|a librarian|a foreign guest|a homesick exchange pupil|a city planner|a bored commuter
a team of volunteers|a tax adviser|a grandmother|a safety inspector|a carpenter|a theatre troupe|a gardener
a sleepless parent|a marathon runner|a market trader|a hospital clown|a bus driver|a rock climber|a tired poet""".replace(
    "\n", "|"
).split("|")
FORMS = """poem|leaflet|dialogue|quiz|speech|diary entry|recipe card|postcard|fable|checklist|riddle|timeline|eulogy
slogan|love letter|ghost story|obituary|tongue twister|lullaby|press release|packing list|manifesto|song verse|memo
glossary|sketch for the stage|travel report|bedtime tale|letter of complaint|short biography|word puzzle|toast
newspaper column|set of riddles|job advert|user manual|thank-you note|prayer|parody|sales pitch""".replace(
    "\n", "|"
).split("|")
LIMITS = """that never uses the letter z|in exactly forty words|without a single adjective|that ends with a question
in which every line rhymes|using only words of two syllables|that mentions three different colours
written as if the year were 1890|with a surprising twist in the middle|and add a title of one word
that could be read aloud in a minute|in the style of a weather forecast|and avoid all technical terms
that begins with the word yesterday|and include one invented proverb|from the point of view of an old dog
so that nobody feels blamed|and underline the most important sentence|as a list of seven short points
in a calm and cheerful tone|with one mistake hidden for readers to find|and finish on a hopeful note
using at least two numbers|told backwards from the end|in the form of questions and answers
that would make a sailor laugh|and give a reason for each claim|while keeping every sentence under ten words
as though it were a secret|and compare it with cooking|with a refrain that comes back twice
that fits on the back of a ticket|and mention who disagrees|in the second person throughout
as a conversation between two birds|and leave out the ending|suited to a cold winter evening
which quotes an imaginary expert|and name the source of each figure|as one long sentence""".replace("\n", "|").split(
    "|"
)
SITUATIONS = """a power cut lasts all night|the budget is halved without warning|nobody in the room agrees
the only bridge is closed|guests arrive a day early|the main speaker falls ill|it rains for three weeks
a rumour spreads at work|the key breaks in the lock|prices double over the summer|the phone battery dies
a child asks why|the machine starts to smoke|somebody has lost the list|two trains are cancelled
the harvest fails again|the teacher is late|the map turns out to be wrong|a letter arrives after ten years
the neighbours complain about noise|the ink runs out halfway|a dog takes the sandwich|all shops are shut
the wind suddenly turns|a stranger offers help|the recipe lacks one page|the vote ends in a tie
water drips through the ceiling|the alarm rings by mistake|a bridge player cheats|the ferry leaves too soon
an old friend forgets a name|the projector refuses to work|half of the team moves away""".replace("\n", "|").split("|")
LABELS = """urgent or not urgent|fruit, vegetable, or neither|praise, blame, or neutral|child, adult, or both
indoors or outdoors|cheap, fair, or overpriced|joke or serious|question, order, or statement|rural or urban
safe, risky, or forbidden|old news or fresh news|true, false, or undecidable|friend, stranger, or official
dawn, noon, or night|threat or promise|useful, harmless, or harmful|calm, tense, or furious|verse or prose
beginner, advanced, or expert|sea, land, or air|public, private, or secret|sweet, sour, salty, or bitter""".replace(
    "\n", "|"
).split("|")
ITEMS = """headline|remark|phone message|diary line|shop sign|chat message|footnote|witness report|caption|proverb
order form|wedding toast|field note|road sign|forum post|lab entry|voice memo|menu line|film line|public notice
review|email greeting|classified advert|lost-and-found note""".replace("\n", "|").split("|")
VERBS = """compose|draft|invent|improvise|put together|sketch out|make up|come up with|jot down|devise""".replace(
    "\n", "|"
).split("|")
NUMBERS = ("three", "four", "five", "six", "seven", "eight", "nine", "eleven", "twelve", "fifteen", "twenty")
LEADS = """Explain the origin of|List common mistakes with|Why do people still care for|Compare the early days of
Summarise recent news on|What would be lost without|Describe the sound of|Plan an afternoon around|Defend the worth of
Predict the future of|Teach the basics of|Ask five questions on|Recommend a short book about|Correct three myths concerning
Estimate the yearly cost of|Imagine a world without|How should one photograph|Translate the proverb on|Rank the best examples of
Find a fitting name for|Reconstruct the story behind|Settle an argument over|Give safety advice on|Outline a lecture on
Tell apart two kinds of|Which laws ought to govern|Collect rhymes for|Name tools needed for|Estimate how many people know of
Praise the beauty of|Write code that simulates|Calculate the energy used by|Draw lessons out of|Trace the spread of
Interview someone who studies|Simplify an old text on|Propose an experiment with|What can children learn through
Argue in favour of|Put into a table all facts on|Guess the age of|Set an exam on|Convert old figures about|Review a film on
Whose job depends upon|Rephrase the official notice on|Order by importance the parts of|Warn of trouble caused by""".replace(
    "\n", "|"
).split("|")
LINKS = """for|with|as seen by|in the company of|on behalf of|to convince|so as to surprise|while teaching|together with
against the wishes of|in a message to|to comfort|before meeting|in honour of|to settle a quarrel with|at the request of
as a gift to|to test|without tiring|to amuse""".replace("\n", "|").split("|")
WHEN = ("now that", "although", "just when", "in case", "even if", "until", "because", "the day")
ASKS = """Decide which fits this {item}|Label every {item}|Judge the attached {item}|To which class belongs the {item}
Mark each {item} in the box|Sort one {item}|How would you file a {item}|Read it, then classify the {item}
Choose a single word for any {item}|Assign the {item} below|Does this {item} count as|Tag some {item}""".replace(
    "\n", "|"
).split("|")
FLAWED = (
    "Draw an image of {topic} for {person}.", "Go on.", "- {topic} as seen by {person} when {situation}",
    "Опишите {topic} для {person} так, чтобы было понятно всем и каждому", "Plot a graph of {topic} over {number} years.",
)  # fmt: skip


def instructions(count: int, seed: int = 0) -> list[str]:
    """Return so many instructions: most are good, some are near to an earlier one, a few have a fault that a filter sees."""
    draw = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        kind = draw.random()
        if kind < 0.08 and found:
            words = draw.choice(found).split()
            words[draw.randrange(len(words))] = draw.choice(["really", "quite", "nearly", "often"])
            found.append(" ".join(words))
        else:
            found.append(_flawed(draw) if kind < 0.12 else _choice(draw) if kind < 0.25 else _text(draw))
    return found


def is_choice(instruction: str) -> bool:
    return any(labels in instruction for labels in LABELS)


def labels_of(instruction: str) -> list[str]:
    """Return the labels that an instruction names."""
    named = next((labels for labels in LABELS if labels in instruction), "yes or no")
    return named.replace(", or ", ", ").replace(" or ", ", ").split(", ")


def _text(draw: random.Random) -> str:
    lead = draw.choice(LEADS)
    if draw.random() < 0.4:
        lead = f"{draw.choice(VERBS).capitalize()} a {draw.choice(FORMS)} about"
    tail = draw.choice(LIMITS) if draw.random() < 0.5 else f"{draw.choice(WHEN)} {draw.choice(SITUATIONS)}"
    parts = [lead, draw.choice(TOPICS), draw.choice(LINKS), draw.choice(PEOPLE)]
    end = "?" if lead.split()[0] in ("Why", "What", "How", "Which", "Whose") else "."
    return " ".join([*parts, tail] if draw.random() < 0.8 else parts) + end


def _choice(draw: random.Random) -> str:
    asked = draw.choice(ASKS).format(item=draw.choice(ITEMS))
    return f"{asked} {draw.choice(LINKS)} {draw.choice(PEOPLE)} on {draw.choice(TOPICS)}: {draw.choice(LABELS)}."


def _flawed(draw: random.Random) -> str:
    topic, person, number = draw.choice(TOPICS), draw.choice(PEOPLE), draw.choice(NUMBERS)
    return draw.choice(FLAWED).format(topic=topic, person=person, number=number, situation=draw.choice(SITUATIONS))
