"""Prompts out of seeds: the same seed gives the same words everywhere, another seed shares no beginning with it."""

from __future__ import annotations

import random

# Short and common, so that most vocabularies have a token for each: words then count as tokens, near enough.
_TEXT = """
able about above action after again air all also always animal answer any area arm art ask autumn away baby back ball
bank base beach bear bed before begin behind bell below best better big bird black blood blue board boat body book
both bottom box boy bread break bridge bright bring brother brown build burn busy buy cake call camp car card care
carry case cat catch change chair cheap child church circle city clean clear clock close cloud coast coat cold color
common cook cool copy corn corner count country course cover cow cross crowd cup cut dance dark day deep desk dinner
dog door doubt down draw dream dress drink drive drop dry dust each ear early earth east easy eat edge egg empty end
engine even every eye face fact fall family far farm fast father fear feet field fight fill find fine finger fire
first fish floor flower fly follow food foot forest forget form four free fresh friend front fruit full game garden
girl give glass gold good grass gray great green ground group grow hair half hand happy hard hat head hear heart heat
heavy help high hill history hold home hope horse hot hour house human ice idea inch iron island job join jump keep
kind king kitchen knee knife know lake land language large last late laugh law lead leaf learn left leg letter level
light line lion list little live long look lost low lunch machine main map mark market meat metal middle milk mind
minute money month moon morning mother mountain mouth move music name near neck need never new next night noise north
nose note ocean office oil old open order page paint paper part party path people picture piece place plane plant play
point pond poor power press price public pull pure push queen question quick quiet rain read red rest rich ride right
ring river road rock roof room root round rule run safe salt sand school sea season seat second seed sell send ship
shirt shoe shop short side sign silver simple sing sister sit size skin sky sleep slow small smile snow soft song soon
sound south space speak spring square stage star start stone store storm story street strong sugar summer sun sweet
swim table talk tall taste teach team test thick thin think thing third time tiny town trade train tree trip true turn
uncle under until use valley very view village visit voice wait walk wall warm wash watch water wave way week west
wheel white wide wild wind window winter wise wish wood word work world write year yellow yes young
"""
_WORDS = _TEXT.split()


def words(seed: str, count: int) -> str:
    """`count` words with blanks between them."""
    return " ".join(random.Random(seed).choices(_WORDS, k=count))


def shared_prefix(seed: str, num_words: int) -> str:
    """A system prompt that many requests begin with."""
    return f"You follow these notes: {words(seed, num_words)}.\n\n"


def conversation_turn(seed: str, num_words: int) -> str:
    """What a user says, and where the answer begins."""
    return f"User: {words(seed, num_words)}?\nAssistant:"
